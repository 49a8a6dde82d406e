"""Writing into the event log of a job: numbered lines, without gap or repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from service.db import database_now
from service.jobs.models import EventRow, JobRow

FIRST = 1
"""Number of a job's first event."""
LONGEST_KEY = 200
"""Bytes of a key that is stored as it is. An entry of PostgreSQL's unique index holds 2,704 at most."""
KEYS_A_LOOK = 500
"""Keys that one statement looks for: databases bound the number of its parameters."""
_INSERT = insert(EventRow.__table__)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Entry:
    """An event to be written."""

    kind: str
    body: dict[str, Any]
    """Those of `phase, network, epoch, step, values, text, data` that it has."""
    key: str | None = None
    """An entry whose key the event log already has is dropped; without a key it is always written. A long one
    is stored as its digest."""


def change(kind: str, text: str | None = None, **data: Any) -> Entry:
    """An entry about the job's own life: `created`, `claimed`, `requeued`, `pause_wanted`, `paused`, `resumed`,
    `stop_wanted`, `cancel_wanted`, `cancelled`, `succeeded`, `failed`."""
    return Entry(kind, {"text": text, "data": data})


def begin(session: Session, job: JobRow, entry: Entry) -> None:
    """Write the first line of a new job's event log; nobody else knows the job yet, so nothing is locked or counted."""
    first = {"number": FIRST, "key": entry.key, "kind": entry.kind, "at": job.created_at, "attempt": 0}
    session.connection().execute(_INSERT, {"job_id": job.id, "body": entry.body, **first})


def append(session: Session, job_id: str, attempt: int, entries: Sequence[Entry]) -> list[Entry]:
    """Write entries under the next numbers of the job's event log; gives those that were new.

    Locks the job's row until the transaction ends, which is what keeps numbers without gap or repeat. Raises
    NoResultFound when there is no such job.
    """
    locked = select(JobRow.next_event, database_now()).where(JobRow.id == job_id).with_for_update()
    number, now = session.execute(locked).one()
    new = _new(session, job_id, entries)
    if new:
        rows = [
            {"job_id": job_id, "number": number + i, "key": stored_key(entry.key), "kind": entry.kind, "at": now,
             "attempt": attempt, "body": entry.body}
            for i, entry in enumerate(new)
        ]  # fmt: skip
        session.execute(insert(EventRow), rows)
        session.execute(update(JobRow).where(JobRow.id == job_id).values(next_event=number + len(new)))
    return new


def stored_key(key: str | None) -> str | None:
    """A key as the event log holds it: a long one by its sha256, hex."""
    if key is None or len(content := key.encode()) <= LONGEST_KEY:
        return key
    return sha256(content).hexdigest()


def _new(session: Session, job_id: str, entries: Sequence[Entry]) -> list[Entry]:
    keys = [key for key in dict.fromkeys(entry.key for entry in entries) if key is not None]
    seen: set[str | None] = set()
    for begin in range(0, len(keys), KEYS_A_LOOK):
        some = keys[begin : begin + KEYS_A_LOOK]
        # Event logs that version 0.2 began hold long keys as they are.
        known = {*some, *map(stored_key, some)}
        seen |= set(session.scalars(select(EventRow.key).where(EventRow.job_id == job_id, EventRow.key.in_(known))))
    new = []
    for entry in entries:
        if entry.key is None or seen.isdisjoint({entry.key, stored_key(entry.key)}):
            new.append(entry)
            seen.add(entry.key)
    return new
