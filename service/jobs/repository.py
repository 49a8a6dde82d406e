"""All SQL about jobs that their owners cause; what workers cause stands in service.claims.repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from sqlalchemy import ColumnElement, bindparam, delete, func, insert, literal_column, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.db import database_now
from service.jobs.models import JobRow, JobTagRow, State
from service.jobs.rules import LONGEST_PAUSE_SECONDS
from service.jobs.schemas import JobQuery
from service.paging import Position
from service.projects.models import ProjectRow


def is_state(job: type[JobRow], state: State) -> ColumnElement[bool]:
    """Whether a job is in that state, written into the statement's text: the index of queued jobs alone serves
    statements that say so, not those that say it by a parameter."""
    return job.state == literal_column(f"'{state.value}'", JobRow.__table__.c.state.type)


@dataclass(frozen=True)
class Queue:
    """The queued jobs, as far as their turns depend on it."""

    jobs: Sequence[tuple[str, str]]
    """Each one's id and its project's, by priority and age, as workers claim within a project."""
    served_at: Mapping[str, float]
    """When a job of each project was last claimed."""
    wait_seconds: Mapping[str, float]
    """Seconds until those may be claimed that must wait."""


_COLUMNS = JobRow.__table__.c
_DEFAULTS = {
    name: column.default.arg for name, column in _COLUMNS.items() if getattr(column.default, "is_scalar", False)
}
_INSERT = insert(JobRow.__table__)  # type: ignore[arg-type]
"""Without the ORM's unit of work, which takes as long as the statement."""


def add(session: Session, job: JobRow, tags: Sequence[str]) -> bool:
    """Store a job, which stays outside of the session, with the defaults of what it says nothing of; False when its
    project has one of that idempotency key, also by a request of the same moment."""
    for name, value in _DEFAULTS.items():
        if getattr(job, name) is None:
            setattr(job, name, value)
    values = {name: value for name, value in vars(job).items() if name in _COLUMNS}
    try:
        with session.begin_nested() if job.idempotency_key is not None else nullcontext():
            session.connection().execute(_INSERT, values)
    except IntegrityError:
        if job.idempotency_key is None:
            raise
        return False
    if tags:
        session.execute(insert(JobTagRow), [{"job_id": job.id, "tag": tag} for tag in dict.fromkeys(tags)])
    return True


_FIND = select(JobRow).where(JobRow.id == bindparam("job_id"), JobRow.project_id == bindparam("project_id"))
"""Built once, for all who follow a job by asking again and again."""


def find(session: Session, project_id: str, job_id: str) -> JobRow | None:
    """A job of that project."""
    return session.scalar(_FIND, {"job_id": job_id, "project_id": project_id})


def lock(session: Session, project_id: str, job_id: str) -> JobRow | None:
    """A job of that project, which nobody else changes until the transaction ends."""
    return session.scalar(select(JobRow).where(JobRow.id == job_id, JobRow.project_id == project_id).with_for_update())


def by_idempotency_key(session: Session, project_id: str, key: str) -> JobRow | None:
    """The job that was made under that key."""
    return session.scalar(select(JobRow).where(JobRow.project_id == project_id, JobRow.idempotency_key == key))


def remove(session: Session, job: JobRow) -> None:
    """Delete a job with its events, tags and artifacts; their blobs are swept later."""
    session.execute(delete(JobRow).where(JobRow.id == job.id))


def page(session: Session, project_id: str, query: JobQuery, after: Position | None, limit: int) -> Sequence[JobRow]:
    """Jobs of that project that the query asks for, newest first."""
    found = select(JobRow).where(JobRow.project_id == project_id)
    if query.state:
        found = found.where(JobRow.state.in_(query.state))
    if query.kind:
        found = found.where(JobRow.kind.in_(query.kind))
    if query.name is not None:
        found = found.where(JobRow.name == query.name)
    for tag in query.tag:
        found = found.where(select(JobTagRow).where(JobTagRow.job_id == JobRow.id, JobTagRow.tag == tag).exists())
    if after is not None:
        found = found.where(tuple_(JobRow.created_at, JobRow.id) < after)
    return session.scalars(found.order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit)).all()


def queue(session: Session) -> Queue:
    """All queued jobs."""
    queued, wait = is_state(JobRow, State.queued), JobRow.not_before - database_now()
    jobs = (
        select(JobRow.id, JobRow.project_id)
        .where(queued)
        .order_by(JobRow.priority.desc(), JobRow.created_at, JobRow.id)
    )
    served = session.execute(select(ProjectRow.id, ProjectRow.served_at))
    waits = session.execute(select(JobRow.id, wait).where(queued, wait.between(0, LONGEST_PAUSE_SECONDS)))
    return Queue(
        [(job_id, project) for job_id, project in session.execute(jobs)], dict(served.all()), dict(waits.all())
    )


def full_projects(session: Session) -> dict[str, int]:
    """The projects that run as many jobs as they may, with that number."""
    count = select(func.count()).where(JobRow.project_id == ProjectRow.id, JobRow.state == State.running)
    running = count.correlate(ProjectRow).scalar_subquery()
    full = session.execute(select(ProjectRow.id, ProjectRow.max_running).where(running >= ProjectRow.max_running))
    return {project_id: most for project_id, most in full if most is not None}
