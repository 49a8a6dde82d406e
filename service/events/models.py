"""The diary of jobs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base


class Event(Base):
    """One numbered line of a job's diary: numbers start at 1, without gap or repeat."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job_id", "key"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str | None]
    """The engine's record; what a resumed run says again bears the key it had and is dropped. Null for changes of
    the job's life."""
    kind: Mapped[str]
    at: Mapped[float]
    attempt: Mapped[int]
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    """Those of `phase, student, epoch, step, values, text, data` that it has. For changes of the job's life `data`
    holds attempt, worker and fence, and `text` says why."""
