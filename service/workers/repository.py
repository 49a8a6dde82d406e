"""All SQL about workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import delete, insert, select, update
from sqlalchemy.orm import Session

from service.db import database_now, is_near
from service.workers.models import WorkerRow


@dataclass(frozen=True)
class Machine:
    """The hardware of a worker."""

    gpu: str | None = None
    """Its GPU's name; null when it has none."""
    memory_bytes: int = 2**62
    """The GPU's memory, or the machine's without one."""
    disk_bytes: int = 2**62
    """Room on its disk that jobs may fill."""


def see(session: Session, worker_id: str, *, host: str, job_id: str | None, machine: Machine) -> None:
    """Note that a worker is alive, what it does and what it has."""
    values = {"job_id": job_id, "seen_at": database_now(), **asdict(machine)}
    known = update(WorkerRow).where(WorkerRow.id == worker_id).values(values).returning(WorkerRow.id)
    if session.scalar(known) is None:
        session.execute(insert(WorkerRow).values(id=worker_id, host=host, started_at=database_now(), **values))


def forget(session: Session, worker_id: str) -> None:
    """Forget a worker that has ended."""
    session.execute(delete(WorkerRow).where(WorkerRow.id == worker_id))


def forget_silent(session: Session, seconds: float) -> None:
    """Drop workers that were not heard from for that long."""
    session.execute(delete(WorkerRow).where(~is_near(WorkerRow.seen_at, seconds)))


def alive(session: Session, within_seconds: float) -> Sequence[WorkerRow]:
    """The workers that were heard from within that time."""
    return session.scalars(select(WorkerRow).where(is_near(WorkerRow.seen_at, within_seconds))).all()
