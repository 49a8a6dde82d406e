"""All SQL about keys."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, or_, select, true, tuple_, update
from sqlalchemy.orm import Session

from service.db import database_now
from service.keys.models import Key
from service.paging import Position
from service.projects.models import Project


def add(session: Session, key: Key) -> None:
    """Store a key."""
    session.add(key)
    session.flush()


def live_with_prefix(session: Session, prefix: str) -> Sequence[Key]:
    """The keys that begin so and were not revoked: one, unless chance wants it otherwise."""
    return session.scalars(select(Key).where(Key.prefix == prefix, Key.revoked_at.is_(None))).all()


def is_live(session: Session, key_id: str) -> bool:
    """Whether the key exists and was not revoked."""
    return session.scalar(select(Key.id).where(Key.id == key_id, Key.revoked_at.is_(None))) is not None


def find(session: Session, key_id: str, project_id: str | None) -> Key | None:
    """A key of that project; of any where None is given."""
    return session.scalar(select(Key).where(Key.id == key_id, _of(project_id)))


def page(session: Session, project_id: str | None, after: Position | None, limit: int) -> Sequence[tuple[Key, str]]:
    """Keys with their projects' names, newest first."""
    found = select(Key, Project.name).join(Project, Project.id == Key.project_id).where(_of(project_id))
    if after is not None:
        found = found.where(tuple_(Key.created_at, Key.id) < after)
    rows = session.execute(found.order_by(Key.created_at.desc(), Key.id.desc()).limit(limit))
    return [(key, project) for key, project in rows]


def note_use(session: Session, key_id: str, pause_seconds: float) -> None:
    """Write that a key is used now, unless that was written within the pause."""
    stale = or_(Key.used_at.is_(None), Key.used_at <= database_now() - pause_seconds)
    session.execute(update(Key).where(Key.id == key_id, stale).values(used_at=database_now()))


def revoke(session: Session, key_id: str) -> None:
    """Revoke a key; one that was revoked before keeps its time."""
    live = Key.revoked_at.is_(None)
    session.execute(update(Key).where(Key.id == key_id, live).values(revoked_at=database_now()))


def _of(project_id: str | None) -> ColumnElement[bool]:
    return true() if project_id is None else Key.project_id == project_id
