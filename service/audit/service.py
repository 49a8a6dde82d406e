"""Writing into the audit log, and reading it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.access.caller import Caller
from service.access.notes import Note
from service.audit import repository
from service.audit.models import AuditRow
from service.audit.schemas import AuditQuery
from service.db import LOST, transaction, why
from service.paging import Position
from service.rates import Rates

FLOODS = frozenset({401, 429})
"""Refusals that can be caused without a key or at any rate."""
FLOODS_PER_SECOND = 1.0
"""Entries of those a second in the long run, by each process; the log of requests has them all."""

log = logging.getLogger(__name__)
_floods = Rates()


@contextmanager
def recorded(caller: Caller) -> Iterator[Session]:
    """A transaction that changes something for the caller, with its entry in the log: both are committed or neither."""
    note = caller.note
    with transaction() as session:
        yield session
        repository.add(session, note, note.success)
    note.written = note.success


async def settle(state: Mapping[str, Any], status: int | None) -> None:
    """Write down how a request was answered, unless its own transaction did; nothing for one that only reads.

    For the edge, once the answer is out. A database that does not answer is a line in the log.
    """
    note: Note | None = state.get("audit")
    if note is None or status is None or status == note.written:
        return
    if status in FLOODS and _floods.take(str(status), FLOODS_PER_SECOND):
        return
    await run_in_threadpool(_write, note, status)


def page(session: Session, query: AuditQuery, after: Position | None, limit: int) -> Sequence[AuditRow]:
    """Entries that the query asks for, newest first."""
    return repository.page(session, query, after, limit)


def _write(note: Note, status: int) -> None:
    try:
        with transaction() as session:
            repository.add(session, note, status)
    except LOST as error:
        log.error(
            "%s %s, answered with %d, is missing in the audit log: %s", note.method, note.route, status, why(error)
        )
