"""All SQL that reads events."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.jobs.models import TERMINAL, EventRow, JobRow


@dataclass(frozen=True)
class Head:
    """The end of a job's event log."""

    last: int
    """Number of its newest event; 0 when there is none."""
    ended: bool
    """Whether its job has ended, so that no other follows."""


def page(session: Session, job_id: str, after: int, limit: int) -> Sequence[EventRow]:
    """Events with higher numbers, in order."""
    found = (
        select(EventRow)
        .where(EventRow.job_id == job_id, EventRow.number > after)
        .order_by(EventRow.number)
        .limit(limit)
    )
    return session.scalars(found).all()


def heads(session: Session, job_ids: Collection[str]) -> dict[str, Head]:
    """The ends of those jobs' event logs; without jobs that do not exist."""
    rows = session.execute(select(JobRow.id, JobRow.next_event, JobRow.state).where(JobRow.id.in_(job_ids)))
    return {job_id: Head(following - 1, state in TERMINAL) for job_id, following, state in rows}


def newest(session: Session, job_ids: Collection[str], count: int) -> Sequence[EventRow]:
    """The newest events of each of those jobs, that many at most, in order."""
    found = select(EventRow).join(JobRow, JobRow.id == EventRow.job_id)
    wanted = found.where(JobRow.id.in_(job_ids), EventRow.number >= JobRow.next_event - count)
    return session.scalars(wanted.order_by(EventRow.job_id, EventRow.number)).all()


def bodies(session: Session, job_id: str, kinds: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The bodies of all events of those kinds, in order."""
    found = select(EventRow.body).where(EventRow.job_id == job_id, EventRow.kind.in_(kinds)).order_by(EventRow.number)
    yield from session.scalars(found)
