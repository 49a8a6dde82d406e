"""All SQL about projects."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, true, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.paging import Position
from service.projects.models import Project


def add(session: Session, project: Project) -> bool:
    """Store a project; False when its name is taken, also by a request of the same moment."""
    try:
        with session.begin_nested():
            session.add(project)
    except IntegrityError:
        return False
    return True


def by_id(session: Session, project_id: str) -> Project | None:
    """The project with that id."""
    return session.get(Project, project_id)


def by_name(session: Session, name: str) -> Project | None:
    """The project of that name."""
    return session.scalar(select(Project).where(Project.name == name))


def page(session: Session, project_id: str | None, after: Position | None, limit: int) -> Sequence[Project]:
    """Newest first; one project alone where an id is given."""
    found = select(Project).where(true() if project_id is None else Project.id == project_id)
    if after is not None:
        found = found.where(tuple_(Project.created_at, Project.id) < after)
    return session.scalars(found.order_by(Project.created_at.desc(), Project.id.desc()).limit(limit)).all()
