"""What one can ask of the catalogue of methods."""

from __future__ import annotations

from service.catalogue import entry_read, find
from service.methods.schemas import MethodRead
from worker.method import Method
from worker.methods import METHODS


def every() -> list[MethodRead]:
    """All methods, by name."""
    return [_shown(name, method) for name, method in METHODS.items()]


def read(name: str) -> MethodRead:
    """One method. Raises NotFound, which names the nearest."""
    return _shown(name, find("method", name, METHODS))


def _shown(name: str, method: type[Method]) -> MethodRead:
    return MethodRead(
        **entry_read(name, method).model_dump(), formula=method.formula, reconstruction=method.reconstruction,
        needs_teacher=method.needs_teacher, label_weight=method.label_weight,
    )  # fmt: skip
