"""Checkpoints of jobs that have not ended."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.blobs import references
from service.db import Base


class CheckpointRow(Base):
    """A file that an engine left to go on from. Its bytes are a blob; two are kept a job, none once it has ended."""

    __tablename__ = "checkpoints"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    file: Mapped[str] = mapped_column(primary_key=True)
    """As the engine named it: its number, its attempt and its digest."""
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)
    phase: Mapped[str]
    step: Mapped[int]
    """Optimizer steps done in that phase."""
    attempt: Mapped[int]
    fence: Mapped[int]
    """Under which it was stored."""
    created_at: Mapped[float]


references.register(CheckpointRow, through="job_id")
