"""Data sets of users."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import ValidationError
from sqlalchemy import JSON, Index
from sqlalchemy.orm import Mapped, mapped_column

from retort.dataset import ImageClassFacts
from retort.spec import wrong_at
from service.blobs import references
from service.jobs import uses
from service.products.models import ProductRow


class DatasetState(StrEnum):
    """The states of a data set."""

    ingesting = "ingesting"
    """Its job has not ended."""
    ready = "ready"
    """Recipes may name it; it never changes any more."""
    failed = "failed"
    """Its job ended without one."""


class DatasetRow(ProductRow):
    """Images that a user had taken in; a job of kind `ingest` makes it, and its file is an archive, see
    retort.datasets._archive."""

    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_list", "project_id", "created_at", "id"),)

    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The source of its images: retort.ingest.Origin."""
    digest: Mapped[str | None]
    """sha256, hex, of the archive; null until its job has succeeded, as the facts."""
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """retort.dataset.DataFacts at its own image size."""


references.register(DatasetRow)
uses.register("dataset", DatasetRow)


def fault_of(dataset: DatasetRow) -> str | None:
    """One sentence on the fault of a data set's facts, as an earlier version may have stored them."""
    try:
        ImageClassFacts.model_validate(dataset.facts)
    except ValidationError as error:
        return f"{wrong_at('record', error)}; take the data set in again"
    return None
