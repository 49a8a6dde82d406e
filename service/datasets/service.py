"""What one can ask of the catalogue of data sets."""

from __future__ import annotations

from service.catalogue import EntryRead, entry_read
from worker.datasets import DATASETS


def every() -> list[EntryRead]:
    """All data sets, by name."""
    return [entry_read(name, entry) for name, entry in DATASETS.items()]
