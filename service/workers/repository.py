"""All SQL about who owns a job: claims, leases, fences, and the workers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased

from service.db import database_now
from service.events.models import Event
from service.jobs.models import Job, State, Wanted
from service.projects.models import Project
from service.workers.models import Worker


class LostLease(RuntimeError):
    """The job belongs to somebody else by now, or it has ended: this worker may not write to it any more."""


@dataclass(frozen=True)
class Claim:
    """A worker's right to a job: every write of that worker names its fence."""

    job_id: str
    project_id: str
    recipe: dict[str, Any]
    attempt: int
    max_attempts: int
    fence: int
    worker_id: str


def claim_best(session: Session, worker_id: str, lease_seconds: float) -> Claim | None:
    """Take the best job that can be run, in one statement; None when there is none.

    Fair between projects (the one served longest ago first), then by priority, then by age. Two workers at once get
    two jobs: on PostgreSQL the second skips the row that the first has locked, on SQLite it waits its turn.
    """
    candidate = aliased(Job)
    best = (
        select(candidate.id)
        .join(Project, Project.id == candidate.project_id)
        .where(_claimable(candidate))
        .order_by(Project.served_at, candidate.priority.desc(), candidate.created_at, candidate.id)
        .limit(1)
        .with_for_update(of=candidate, skip_locked=True)
    )
    taken = {
        "state": State.running,
        "lease_owner": worker_id,
        "lease_ends": database_now() + lease_seconds,
        "attempt": Job.attempt + 1,
        "fence": Job.fence + 1,
        "started_at": func.coalesce(Job.started_at, database_now()),
    }
    claimed = (
        update(Job)
        .where(Job.id == best.scalar_subquery(), _claimable(Job))
        .values(taken)
        .returning(Job.id, Job.project_id, Job.recipe, Job.attempt, Job.max_attempts, Job.fence)
        .execution_options(synchronize_session=False)
    )
    row = session.execute(claimed).one_or_none()
    if row is None:
        return None
    job_id, project_id, recipe, attempt, max_attempts, fence = row
    return Claim(job_id, project_id, recipe, attempt, max_attempts, fence, worker_id)


def hopeless(session: Session, limit: int = 100) -> Sequence[Job]:
    """Jobs that no worker holds and none shall take, locked: cancelled ones, and those without an attempt left."""
    unheld = or_(Job.state == State.queued, _expired(Job))
    unwanted = and_(unheld, Job.wanted == Wanted.cancel)
    spent = and_(_expired(Job), Job.attempt >= Job.max_attempts)
    return session.scalars(select(Job).where(or_(unwanted, spent)).limit(limit).with_for_update(skip_locked=True)).all()


def write(session: Session, claim: Claim, **values: Any) -> Wanted:
    """Change a job that the worker holds; gives what its owner wants of it.

    Raises LostLease when the job has a newer fence or does not run any more.
    """
    held = update(Job).where(Job.id == claim.job_id, Job.fence == claim.fence, Job.state == State.running)
    wanted = session.scalar(held.values(values).returning(Job.wanted).execution_options(synchronize_session=False))
    if wanted is None:
        raise LostLease(f"job {claim.job_id} is not held by {claim.worker_id} under fence {claim.fence} any more")
    return wanted


def last_change(session: Session, job_id: str, kinds: Sequence[str]) -> Event | None:
    """The newest event of one of those kinds."""
    found = select(Event).where(Event.job_id == job_id, Event.kind.in_(kinds)).order_by(Event.number.desc()).limit(1)
    return session.scalar(found)


def read_latest(session: Session, job_id: str) -> dict[str, Any]:
    """The newest metrics of each network."""
    latest: dict[str, Any] = session.scalars(select(Job.latest).where(Job.id == job_id)).one()
    return latest


def serve_project(session: Session, project_id: str) -> None:
    """Note that a project's turn was now."""
    session.execute(update(Project).where(Project.id == project_id).values(served_at=database_now()))


def see(session: Session, worker_id: str, *, host: str, job_id: str | None) -> None:
    """Note that a worker is alive and what it does."""
    values = {"job_id": job_id, "seen_at": database_now()}
    known = update(Worker).where(Worker.id == worker_id).values(values).returning(Worker.id)
    if session.scalar(known) is None:
        session.execute(insert(Worker).values(id=worker_id, host=host, started_at=database_now(), **values))


def forget(session: Session, worker_id: str) -> None:
    """Note that a worker has gone."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def forget_silent(session: Session, seconds: float) -> None:
    """Drop workers that were not heard from for that long."""
    session.execute(delete(Worker).where(Worker.seen_at < database_now() - seconds))


def count_alive(session: Session, within_seconds: float) -> int:
    """How many workers were heard from within that time."""
    alive = select(func.count()).select_from(Worker).where(Worker.seen_at >= database_now() - within_seconds)
    return session.scalars(alive).one()


def _claimable(job: type[Job]) -> ColumnElement[bool]:
    queued = and_(job.state == State.queued, job.not_before <= database_now())
    left_behind = and_(_expired(job), job.attempt < job.max_attempts)
    return and_(or_(queued, left_behind), job.wanted == Wanted.run)


def _expired(job: type[Job]) -> ColumnElement[bool]:
    return and_(job.state == State.running, job.lease_ends <= database_now())
