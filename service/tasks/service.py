"""The catalogue of tasks."""

from __future__ import annotations

from retort.outputs import READS
from retort.task import Task
from retort.tasks import TASKS
from service.catalogue import find, summary
from service.tasks.schemas import TaskRead


def every() -> list[TaskRead]:
    """All tasks, by name."""
    return [_shown(task) for task in TASKS.values()]


def read(name: str) -> TaskRead:
    """One task. Raises NotFound, which names the nearest."""
    return _shown(find("task", name, TASKS))


def _shown(task: Task) -> TaskRead:
    return TaskRead(
        name=task.name,
        title=task.title,
        summary=summary(type(task)),
        headline=task.headline.name,
        more_is_better=task.headline.more_is_better,
        columns=task.columns,
        reads=tuple(text for read, text in READS.items() if read in task.reads),
        label_fields=tuple(sorted(task.label_fields)),
        facts=task.facts_type.model_json_schema(),
    )
