"""Data sets of users. Whether one can be used is told by its row and its job's."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base
from service.jobs.models import TERMINAL, Job


class DatasetState(StrEnum):
    """Where a data set stands."""

    ingesting = "ingesting"
    """Its job has not ended."""
    ready = "ready"
    """Recipes may name it; it never changes any more."""
    failed = "failed"
    """Its job ended without one."""


class Dataset(Base):
    """Images that a user had taken in."""

    __tablename__ = "datasets"
    __table_args__ = (Index("ix_datasets_list", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    """`dataset_` and 26 characters that sort by the time of creation."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), index=True)
    """The job of kind `ingest` that makes it; null once that was deleted."""
    source: Mapped[dict[str, Any]] = mapped_column(JSON)
    """Where its images came from: retort.ingest.Origin."""
    blob_id: Mapped[str | None] = mapped_column(ForeignKey("blobs.id"), index=True)
    """Its archive, retort.datasets._archive; null until its job has succeeded, as all that follows."""
    size: Mapped[int | None] = mapped_column(BigInteger)
    """Bytes of that archive."""
    digest: Mapped[str | None]
    """sha256, hex, of that archive."""
    facts: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """retort.dataset.DataFacts at its own image size."""
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What was found in its images."""
    created_at: Mapped[float]
    used_at: Mapped[float | None]
    """When a job was last made that uses it, to the hour."""


def state_of(dataset: Dataset, job: Job | None) -> DatasetState:
    """Where a data set stands, by its row and its job's."""
    if dataset.digest is not None:
        return DatasetState.ready
    return DatasetState.failed if job is None or job.state in TERMINAL else DatasetState.ingesting


def trouble_of(dataset: Dataset, job: Job | None) -> str | None:
    """One sentence why it cannot be used, if it cannot."""
    match state_of(dataset, job):
        case DatasetState.ready:
            return None
        case DatasetState.ingesting:
            return f"it is still being taken in by job {dataset.job_id}"
    if job is None:
        return "its job was deleted before it was taken in"
    if job.error is not None:
        return f"its job {job.id} failed: {job.error['detail']}"
    return f"its job {job.id} was {job.state.value}"
