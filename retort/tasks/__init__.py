"""Every task, found by looking in this folder: adding one is adding a file, or a folder, here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from retort.dataset import DataFacts
from retort.registry import discover, nearest
from retort.task import Task

TASKS: dict[str, Task] = {
    # A task is a class without state; mypy cannot know that discover() gives no abstract one.
    name: task()
    for name, task in discover(__name__, __path__, Task).items()  # type: ignore[type-abstract]
}

if TYPE_CHECKING:
    AnyFacts = DataFacts
else:
    AnyFacts = Union[tuple(dict.fromkeys(task.facts_type for task in TASKS.values()))]  # noqa: UP007 - made at run time


def _known(name: str) -> str:
    if name not in TASKS:
        context = {"name": repr(name), "known": " or ".join(TASKS), "hint": nearest(name, TASKS)}
        raise PydanticCustomError("unknown_task", "no task {name}; wanted {known}{hint}", context)
    return name


TaskName = Annotated[str, AfterValidator(_known)]
