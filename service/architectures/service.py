"""The catalogue of architectures."""

from __future__ import annotations

from retort.architecture import Architecture
from retort.architectures import ARCHITECTURES, CARDS
from service.architectures.schemas import ArchitectureRead
from service.catalogue import find


def every() -> list[ArchitectureRead]:
    """All architectures, family by family."""
    return [_shown(name, family) for name, family in ARCHITECTURES.items()]


def read(name: str) -> ArchitectureRead:
    """One architecture. Raises NotFound, which names the nearest."""
    return _shown(name, find("architecture", name, ARCHITECTURES))


def _shown(name: str, family: Architecture) -> ArchitectureRead:
    return ArchitectureRead(name=name, family=family.name, source=family.source, card=CARDS.get(name))
