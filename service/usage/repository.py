"""All SQL about what projects use."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import bindparam, func, select
from sqlalchemy.orm import Session

from service.db import database_now
from service.jobs.models import JobRow, State
from service.jobs.repository import is_state
from service.projects.models import ProjectRow


@dataclass(frozen=True)
class ProjectLoad:
    """The state of a project that decides whether it may make a job."""

    max_queued: int | None
    max_stored_bytes: int | None
    """Both its own."""
    queued: int
    """Number of its jobs that wait."""
    now: float
    """Epoch seconds by the database's clock."""


def standing(session: Session, project_id: str) -> ProjectLoad:
    """The load of a project."""
    return ProjectLoad(*session.connection().execute(_STANDING, {"project_id": project_id}).one())


def lock(session: Session, project_id: str) -> ProjectRow:
    """The project as it stands, which nobody else locks until the transaction ends; others may refer to it."""
    found = select(ProjectRow).where(ProjectRow.id == project_id).with_for_update(key_share=True)
    return session.scalars(found.execution_options(populate_existing=True)).one()


def read(session: Session, project_id: str) -> ProjectRow:
    """The project as it stands."""
    return session.scalars(select(ProjectRow).where(ProjectRow.id == project_id)).one()


def count_jobs(session: Session, project_id: str, state: State) -> int:
    """Number of the project's jobs in that state."""
    counted = select(func.count()).select_from(JobRow).where(JobRow.project_id == project_id, is_state(JobRow, state))
    return session.scalars(counted).one()


_projects, _jobs = ProjectRow.__table__.c, JobRow.__table__.c
_queued = select(func.count()).where(_jobs.project_id == _projects.id, is_state(JobRow, State.queued)).scalar_subquery()
_STANDING = select(_projects.max_queued, _projects.max_stored_bytes, _queued, database_now()).where(
    _projects.id == bindparam("project_id")
)
"""Built once and without the ORM: each job that is made asks it."""
