"""The catalogue of compressions."""

from __future__ import annotations

from retort.compressions import COMPRESSIONS
from service.catalogue import EntryRead, entry_read


def every() -> list[EntryRead]:
    """All steps, by name."""
    return [entry_read(name, entry) for name, entry in COMPRESSIONS.items()]
