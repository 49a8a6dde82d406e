"""All SQL about the audit log."""

from __future__ import annotations

import time
from collections.abc import Sequence

from sqlalchemy import delete, insert, select, tuple_
from sqlalchemy.orm import Session

from service.access.notes import Note
from service.audit.models import AuditRow
from service.audit.schemas import AuditQuery
from service.db import database_now, transaction
from service.ids import new_id
from service.paging import Position

ENTRIES_A_SWEEP = 1000
DAY_SECONDS = 86_400.0
_INSERT = insert(AuditRow.__table__).values(at=database_now())  # type: ignore[arg-type]
"""Built once: each request that changes something writes one."""


def add(session: Session, note: Note, status: int) -> None:
    """Write a note down."""
    values = {
        "id": new_id("audit", time.time()), "project_id": note.project_id, "key_id": note.key_id,
        "method": note.method, "route": note.route, "about": note.about, "status": status,
        "request_id": note.request_id,
    }  # fmt: skip
    session.connection().execute(_INSERT, values)


def page(session: Session, query: AuditQuery, after: Position | None, limit: int) -> Sequence[AuditRow]:
    """Entries that the query asks for, newest first."""
    found = select(AuditRow)
    if query.project is not None:
        found = found.where(AuditRow.project_id == query.project)
    if query.key is not None:
        found = found.where(AuditRow.key_id == query.key)
    if after is not None:
        found = found.where(tuple_(AuditRow.at, AuditRow.id) < after)
    return session.scalars(found.order_by(AuditRow.at.desc(), AuditRow.id.desc()).limit(limit)).all()


def sweep(days: float) -> int:
    """Forget entries that are older than that, so many a transaction; gives how many there were."""
    count, dropped = 0, ENTRIES_A_SWEEP
    while dropped == ENTRIES_A_SWEEP:
        with transaction() as session:
            old = select(AuditRow.id).where(AuditRow.at <= database_now() - days * DAY_SECONDS)
            some = delete(AuditRow).where(AuditRow.id.in_(old.limit(ENTRIES_A_SWEEP))).returning(AuditRow.id)
            dropped = len(session.scalars(some.execution_options(synchronize_session=False)).all())
        count += dropped
    return count
