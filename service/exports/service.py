"""The catalogue of exports."""

from __future__ import annotations

from retort.exports import EXPORTS
from service.catalogue import EntryRead, entry_read


def every() -> list[EntryRead]:
    """All exports, by name."""
    return [entry_read(name, entry) for name, entry in EXPORTS.items()]
