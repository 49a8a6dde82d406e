"""All SQL about the diary."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from service.db import database_now
from service.events.models import Event
from service.jobs.models import TERMINAL, Job

FIRST = 1
"""Number of a diary's first event."""
_INSERT = insert(Event.__table__)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Entry:
    """What is to be written down."""

    kind: str
    body: dict[str, Any]
    """Those of `phase, student, epoch, step, values, text, data` that it has."""
    key: str | None = None
    """An entry whose key the diary already has is dropped; without a key it is always written."""


@dataclass(frozen=True)
class Head:
    """How far a diary has come."""

    last: int
    """Number of its newest event; 0 when there is none."""
    ended: bool
    """Whether its job has ended, so that no other follows."""


def change(kind: str, text: str | None = None, **data: Any) -> Entry:
    """An entry about the job's own life: `created`, `claimed`, `requeued`, `pause_wanted`, `paused`, `resumed`,
    `stop_wanted`, `cancel_wanted`, `cancelled`, `succeeded`, `failed`."""
    return Entry(kind, {"text": text, "data": data})


def begin(session: Session, job: Job, entry: Entry) -> None:
    """Write the first line of a new job's diary; nobody else knows the job yet, so nothing is locked or counted."""
    first = {"number": FIRST, "key": entry.key, "kind": entry.kind, "at": job.created_at, "attempt": 0}
    session.connection().execute(_INSERT, {"job_id": job.id, "body": entry.body, **first})


def append(session: Session, job_id: str, attempt: int, entries: Sequence[Entry]) -> list[Entry]:
    """Write entries under the next numbers of the job's diary; gives those that were new.

    Locks the job's row until the transaction ends, which is what keeps numbers without gap or repeat. Raises
    NoResultFound when there is no such job.
    """
    locked = select(Job.next_event, database_now()).where(Job.id == job_id).with_for_update()
    number, now = session.execute(locked).one()
    new = _new(session, job_id, entries)
    if new:
        rows = [
            {"job_id": job_id, "number": number + i, "key": entry.key, "kind": entry.kind, "at": now,
             "attempt": attempt, "body": entry.body}
            for i, entry in enumerate(new)
        ]  # fmt: skip
        session.execute(insert(Event), rows)
        session.execute(update(Job).where(Job.id == job_id).values(next_event=number + len(new)))
    return new


def page(session: Session, job_id: str, after: int, limit: int) -> Sequence[Event]:
    """Events with higher numbers, in order."""
    found = select(Event).where(Event.job_id == job_id, Event.number > after).order_by(Event.number).limit(limit)
    return session.scalars(found).all()


def heads(session: Session, job_ids: Collection[str]) -> dict[str, Head]:
    """How far the diaries of those jobs have come; without those that do not exist."""
    rows = session.execute(select(Job.id, Job.next_event, Job.state).where(Job.id.in_(job_ids)))
    return {job_id: Head(following - 1, state in TERMINAL) for job_id, following, state in rows}


def newest(session: Session, job_ids: Collection[str], count: int) -> Sequence[Event]:
    """The newest events of each of those jobs, that many at most, in order."""
    found = select(Event).join(Job, Job.id == Event.job_id)
    wanted = found.where(Job.id.in_(job_ids), Event.number >= Job.next_event - count)
    return session.scalars(wanted.order_by(Event.job_id, Event.number)).all()


def bodies(session: Session, job_id: str, kinds: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What all events of those kinds say, in order."""
    found = select(Event.body).where(Event.job_id == job_id, Event.kind.in_(kinds)).order_by(Event.number)
    yield from session.scalars(found)


def _new(session: Session, job_id: str, entries: Sequence[Entry]) -> list[Entry]:
    keys = {entry.key for entry in entries if entry.key is not None}
    seen = set(session.scalars(select(Event.key).where(Event.job_id == job_id, Event.key.in_(keys)))) if keys else set()
    new = []
    for entry in entries:
        if entry.key is None or entry.key not in seen:
            new.append(entry)
            seen.add(entry.key)
    return new
