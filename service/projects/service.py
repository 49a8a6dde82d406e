"""Making, finding and limiting projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from service.db import read_now
from service.errors import Conflict, NotFound, quote
from service.ids import new_id
from service.paging import Position
from service.projects import repository
from service.projects.models import ProjectRow

DEFAULT = "default"
"""Name of the project that the first key opens."""


def create(session: Session, name: str) -> ProjectRow:
    """A new project. Raises Conflict when the name is taken."""
    now = read_now(session)
    project = ProjectRow(id=new_id("project", now), name=name, created_at=now)
    if not repository.add(session, project):
        raise Conflict(f"there is a project {quote(name)} already; names are unique")
    return project


def ensure(session: Session, name: str) -> ProjectRow:
    """The project of that name, made where it is missing."""
    return repository.by_name(session, name) or create(session, name)


def read(session: Session, project_id: str) -> ProjectRow:
    """The project with that id, which must exist."""
    project = repository.by_id(session, project_id)
    if project is None:
        raise NotFound(f"there is no project {quote(project_id)}")
    return project


def limit(session: Session, project_id: str, limits: Mapping[str, Any]) -> ProjectRow:
    """Set limits of a project, by column. What it has already stays, though it be more. Raises NotFound."""
    project = read(session, project_id)
    for name, value in limits.items():
        setattr(project, name, value)
    return project


def by_name(session: Session, name: str) -> ProjectRow:
    """The project of that name. Raises NotFound."""
    project = repository.by_name(session, name)
    if project is None:
        raise NotFound(f"there is no project {quote(name)}")
    return project


def page(session: Session, project_id: str | None, after: Position | None, limit: int) -> Sequence[ProjectRow]:
    """Newest first; one project alone where an id is given."""
    return repository.page(session, project_id, after, limit)
