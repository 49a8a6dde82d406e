"""The jobs table: the row is the job. Times are epoch seconds by the database's clock."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, UniqueConstraint, false, text
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base


class State(StrEnum):
    """The states of a job; succeeded, failed and cancelled are final."""

    queued = "queued"
    running = "running"
    paused = "paused"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"


class Wanted(StrEnum):
    """The wishes that its owner may have of a job that has not ended."""

    run = "run"
    pause = "pause"
    stop = "stop"
    """End early, and keep the best students so far."""
    cancel = "cancel"


QUEUED = text("state = 'queued'")
ENDED = text("ended_at IS NOT NULL")
TERMINAL = frozenset({State.succeeded, State.failed, State.cancelled})


class JobRow(Base):
    """One run of one spec."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("project_id", "idempotency_key"),
        Index(
            "ix_jobs_queue", "project_id", "priority", "created_at", "id", postgresql_where=QUEUED, sqlite_where=QUEUED
        ),
        Index("ix_jobs_state", "state", "wanted", "deadline_at"),
        Index("ix_jobs_list", "project_id", "created_at", "id"),
        Index("ix_jobs_ended", "project_id", "ended_at", postgresql_where=ENDED, sqlite_where=ENDED),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    """`job_` and 26 characters that sort by the time of creation."""
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    kind: Mapped[str] = mapped_column(default="distill")
    """One of retort.kinds."""
    name: Mapped[str] = mapped_column(default="")
    state: Mapped[State] = mapped_column(default=State.queued)
    wanted: Mapped[Wanted] = mapped_column(default=Wanted.run)
    priority: Mapped[int] = mapped_column(default=0)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The resolved recipe, or the spec of another kind, kept as it was: it stays readable when a method's fields have
    changed since."""
    phase: Mapped[str | None]
    """Of the attempt that runs, or that was the last of a job that has ended; null while it waits."""
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """The engine's newest Progress."""
    latest: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    """The newest metrics of each network, by its name."""
    error: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """The reason that the last attempt did not finish: `fault` (spec, machine, service), `cause`, `detail`."""
    attempt: Mapped[int] = mapped_column(default=0)
    """Number of the job's starts, without those that its worker handed back because it had to stop."""
    max_attempts: Mapped[int]
    fence: Mapped[int] = mapped_column(default=0)
    """Rises with every claim; a worker's write that bears an older one is refused."""
    lease_owner: Mapped[str | None]
    lease_ends: Mapped[float | None]
    not_before: Mapped[float] = mapped_column(default=0.0)
    """Not claimed before then: the pause after an attempt that failed through the machine."""
    deadline_at: Mapped[float | None]
    """When its wall-clock time is over; null until the first start, and for jobs without a limit."""
    needs_gpu: Mapped[bool] = mapped_column(default=False, server_default=false())
    """Whether only a worker with a GPU may claim it."""
    needs_memory_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Least memory of a worker that may claim it."""
    needs_disk_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Least free room on the disk of a worker that may claim it."""
    next_event: Mapped[int] = mapped_column(default=1)
    """The number that the next event gets, taken inside the transaction that writes it."""
    idempotency_key: Mapped[str | None]
    body_digest: Mapped[str]
    """sha256, hex, of the body that made the job."""
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]


def at_rest(progress: dict[str, Any] | None) -> dict[str, Any] | None:
    """The progress of a job that does not run any more: the place that it reached, without speed and time left."""
    return progress and {**progress, "examples_per_second": None, "seconds_left": None}


class JobTagRow(Base):
    """A word to find a job by."""

    __tablename__ = "job_tags"
    __table_args__ = (Index("ix_job_tags_tag", "tag"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(primary_key=True)


class EventRow(Base):
    """One numbered event of a job: numbers start at 1, without gap or repeat."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("job_id", "key"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str | None]
    """Names the engine's record, a long name by its sha256; a record that a resumed run repeats bears the same key and
    is dropped. Null for changes of the job's life."""
    kind: Mapped[str]
    at: Mapped[float]
    attempt: Mapped[int]
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    """Those of `phase, network, epoch, step, values, text, data` that it has. For changes of the job's life `data`
    holds attempt, worker and fence, and `text` says why."""
