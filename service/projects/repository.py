"""All SQL about projects."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, true, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.paging import Position
from service.projects.models import ProjectRow


def add(session: Session, project: ProjectRow) -> bool:
    """Store a project; False when its name is taken, also by a request of the same moment."""
    try:
        with session.begin_nested():
            session.add(project)
    except IntegrityError:
        return False
    return True


def by_id(session: Session, project_id: str) -> ProjectRow | None:
    """The project with that id."""
    return session.get(ProjectRow, project_id)


def by_name(session: Session, name: str) -> ProjectRow | None:
    """The project of that name."""
    return session.scalar(select(ProjectRow).where(ProjectRow.name == name))


def page(session: Session, project_id: str | None, after: Position | None, limit: int) -> Sequence[ProjectRow]:
    """Newest first; one project alone where an id is given."""
    found = select(ProjectRow).where(true() if project_id is None else ProjectRow.id == project_id)
    if after is not None:
        found = found.where(tuple_(ProjectRow.created_at, ProjectRow.id) < after)
    return session.scalars(found.order_by(ProjectRow.created_at.desc(), ProjectRow.id.desc()).limit(limit)).all()
