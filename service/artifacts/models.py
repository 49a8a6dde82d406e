"""Artifacts: files that jobs made."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.blobs import references
from service.db import Base


class ArtifactRow(Base):
    """A file that a job made."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    """`<network>.<suffix>` or `report.json`."""
    network: Mapped[str | None]
    """The student, or `teacher`; null for files about the whole job."""
    media_type: Mapped[str]
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)
    created_at: Mapped[float]


references.register(ArtifactRow, through="job_id")
