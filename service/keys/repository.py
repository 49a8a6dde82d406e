"""All SQL about keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Known:
    """A key that was not revoked."""

    id: str
    project_id: str
    admin: bool
    unnoted: bool
    """Whether its last use was noted longer ago than the pause."""


def find_live(session: Session, sha256: str, pause_seconds: float) -> Known | None:
    """The key of that hash, unless it was revoked."""
    found = select(Key.id, Key.project_id, Key.admin, _unnoted(pause_seconds))
    row = session.execute(found.where(Key.sha256 == sha256, Key.revoked_at.is_(None))).one_or_none()
    return None if row is None else Known(*row)


def live_among(session: Session, key_ids: Collection[str]) -> Collection[str]:
    """Those of the keys that exist and were not revoked."""
    return frozenset(session.scalars(select(Key.id).where(Key.id.in_(key_ids), Key.revoked_at.is_(None))))


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
    session.execute(update(Key).where(Key.id == key_id, _unnoted(pause_seconds)).values(used_at=database_now()))


def revoke(session: Session, key_id: str) -> None:
    """Revoke a key; one that was revoked before keeps its time."""
    live = Key.revoked_at.is_(None)
    session.execute(update(Key).where(Key.id == key_id, live).values(revoked_at=database_now()))


def _of(project_id: str | None) -> ColumnElement[bool]:
    return true() if project_id is None else Key.project_id == project_id


def _unnoted(pause_seconds: float) -> ColumnElement[bool]:
    return or_(Key.used_at.is_(None), Key.used_at <= database_now() - pause_seconds)
