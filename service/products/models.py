"""The columns of products. Whether a product can be used follows from its row and its job's."""

from __future__ import annotations

from enum import Enum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base
from service.jobs.models import TERMINAL, JobRow


class ProductStage(Enum):
    """The stages of a product; each kind of products has words of its own for them."""

    pending = "pending"
    """Its job has not ended."""
    ready = "ready"
    """Recipes may name it; it never changes any more."""
    failed = "failed"
    """Its job ended without it."""


class ProductRow(Base):
    """A thing that a job makes and that other jobs use."""

    __abstract__ = True

    id: Mapped[str] = mapped_column(primary_key=True)
    """The kind's prefix, and 26 characters that sort by the time of creation."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"), index=True)
    """The job that makes or made it; null once that was deleted."""
    blob_id: Mapped[str | None] = mapped_column(ForeignKey("blobs.id"), index=True)
    """Its file; null while it has none."""
    size: Mapped[int | None] = mapped_column(BigInteger)
    """Bytes of that file."""
    report: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """The job's findings; null until it has succeeded."""
    created_at: Mapped[float]
    used_at: Mapped[float | None]
    """When a job was last made that uses it, to the hour."""


def stage_of(product: ProductRow, job: JobRow | None) -> ProductStage:
    """The stage of a product."""
    if product.report is not None:
        return ProductStage.ready
    return ProductStage.failed if job is None or job.state in TERMINAL else ProductStage.pending
