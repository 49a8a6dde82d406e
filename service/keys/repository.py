"""All SQL about keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Double, and_, bindparam, or_, select, tuple_, update
from sqlalchemy.orm import Session

from service.db import database_now
from service.keys.models import KeyRow
from service.paging import Position
from service.projects.models import ProjectRow


def add(session: Session, key: KeyRow) -> None:
    """Store a key."""
    session.add(key)
    session.flush()


@dataclass(frozen=True)
class LiveKey:
    """A key that is neither revoked nor expired."""

    id: str
    project_id: str
    admin: bool
    scopes: str
    requests_per_second: float | None
    """Its project's own limit."""
    unnoted: bool
    """Whether its last use was noted longer ago than the pause."""


def find_live(session: Session, sha256: str, pause_seconds: float) -> LiveKey | None:
    """The key of that hash, while it is live."""
    row = session.connection().execute(_FIND_LIVE, {"hash": sha256, "pause": pause_seconds}).one_or_none()
    return None if row is None else LiveKey(*row)


def live_among(session: Session, key_ids: Collection[str]) -> Collection[str]:
    """Those of the keys that are live."""
    return frozenset(session.scalars(select(KeyRow.id).where(KeyRow.id.in_(key_ids), _live())))


def lock(session: Session, key_id: str) -> KeyRow | None:
    """A key, which nobody else changes until the transaction ends."""
    return session.scalar(select(KeyRow).where(KeyRow.id == key_id).with_for_update())


def successor(session: Session, key_id: str) -> str | None:
    """Id of the key that replaces it."""
    return session.scalar(select(KeyRow.id).where(KeyRow.replaces == key_id))


def page(session: Session, after: Position | None, limit: int) -> Sequence[tuple[KeyRow, str]]:
    """Keys with their projects' names, newest first."""
    found = select(KeyRow, ProjectRow.name).join(ProjectRow, ProjectRow.id == KeyRow.project_id)
    if after is not None:
        found = found.where(tuple_(KeyRow.created_at, KeyRow.id) < after)
    rows = session.execute(found.order_by(KeyRow.created_at.desc(), KeyRow.id.desc()).limit(limit))
    return [(key, project) for key, project in rows]


def note_use(session: Session, key_id: str, pause_seconds: float) -> None:
    """Write that a key is used now, unless that was written within the pause."""
    session.execute(update(KeyRow).where(KeyRow.id == key_id, _unnoted(pause_seconds)).values(used_at=database_now()))


def _live() -> ColumnElement[bool]:
    return and_(KeyRow.revoked_at.is_(None), or_(KeyRow.expires_at.is_(None), KeyRow.expires_at > database_now()))


def _unnoted(pause_seconds: float | ColumnElement[float]) -> ColumnElement[bool]:
    return or_(KeyRow.used_at.is_(None), KeyRow.used_at <= database_now() - pause_seconds)


_keys, _projects = KeyRow.__table__.c, ProjectRow.__table__.c
_FIND_LIVE = select(
    _keys.id, _keys.project_id, _keys.admin, _keys.scopes, _projects.requests_per_second,
    _unnoted(bindparam("pause", type_=Double())),
).where(_keys.sha256 == bindparam("hash"), _projects.id == _keys.project_id, _live())  # fmt: skip
"""Built once and without the ORM, which takes as long as all the rest: every request asks it."""
