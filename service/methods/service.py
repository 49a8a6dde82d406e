"""The catalogue of methods."""

from __future__ import annotations

from functools import cache

from pydantic import TypeAdapter

from retort.architectures import CARDS
from retort.dataset import ImageClassFacts
from retort.method import Method, Setup
from retort.methods import CONFORMANCE, METHODS
from retort.tasks import TASKS
from retort.validation import lacking
from service.catalogue import entry_read, find
from service.methods.schemas import Conformance, MethodRead

FACTS = ImageClassFacts(
    classes=100, class_names=tuple(map(str, range(100))), image_size=32, train=45_000, validation=5_000, test=10_000
)
SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8x4"], CARDS["resnet32x4"], batch_size=64, epochs=240, cards=CARDS)
"""The setup that a method's needs are shown for."""


def every() -> list[MethodRead]:
    """All methods, by name."""
    return [_shown(name, method) for name, method in METHODS.items()]


def read(name: str) -> MethodRead:
    """One method. Raises NotFound, which names the nearest."""
    return _shown(name, find("method", name, METHODS))


def _shown(name: str, method: type[Method]) -> MethodRead:
    conformance = _conformance().get(name, ())
    worst = max((case.worst_difference for case in conformance), default=None)
    made = method(name=name)
    tasks = tuple(task.name for task in TASKS.values() if not lacking(made, SETUP, task))
    return MethodRead(
        **entry_read(name, method).model_dump(), formula=method.formula, reconstruction=method.reconstruction,
        needs_teacher=method.needs_teacher, label_weight=method.label_weight, needs=made.needs(SETUP), tasks=tasks,
        refuses=method.refuses, conformance=conformance, worst_difference=worst,
    )  # fmt: skip


@cache
def _conformance() -> dict[str, tuple[Conformance, ...]]:
    return TypeAdapter(dict[str, tuple[Conformance, ...]]).validate_json(CONFORMANCE.read_bytes())
