"""All SQL about who owns a job: claims, leases, fences, and the workers themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, false, func, insert, or_, select, update
from sqlalchemy.orm import Session, aliased

from service.db import database_now
from service.events.models import Event
from service.jobs.models import Job, State, Wanted
from service.projects.models import Project
from service.workers.models import Worker


class LostLease(RuntimeError):
    """The job belongs to somebody else by now, or it has ended: this worker may not write to it any more."""


class Overtaken(RuntimeError):
    """Another worker had the project's turn in the same moment: this claim must be taken back and tried again."""


@dataclass(frozen=True)
class Machine:
    """What a worker has to offer."""

    gpu: str | None = None
    """Its GPU's name; null when it has none."""
    memory_bytes: int = 2**62
    """The GPU's memory, or the machine's without one."""
    disk_bytes: int = 2**62
    """Room on its disk that jobs may fill."""


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
    wanted: Wanted
    """`run`, or `stop`: then there is only something to keep."""


@dataclass(frozen=True)
class Standing:
    """How a job stands at the moment of a write."""

    wanted: Wanted
    overdue: bool
    """Whether its wall-clock time is over."""


def claim_best(session: Session, worker_id: str, lease_seconds: float, machine: Machine) -> Claim | None:
    """Take the best job that the machine can run, and its project's turn; None when there is none.

    Fair between projects (the one served longest ago first), then by priority, then by age. Two workers at once get
    two jobs: on PostgreSQL the second skips the row that the first has locked, on SQLite it waits its turn. Raises
    Overtaken when both got jobs of one project: then its turn is over for the second, and so may be its limit.
    """
    candidate = aliased(Job)
    best = (
        select(candidate.id)
        .join(Project, Project.id == candidate.project_id)
        .where(_claimable(candidate), _fits(candidate, machine), or_(_expired(candidate), _has_room()))
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
    served_at = select(Project.served_at).where(Project.id == Job.project_id).scalar_subquery()
    claimed = (
        update(Job)
        .where(Job.id == best.scalar_subquery(), _claimable(Job))
        .values(taken)
        .returning(Job.id, Job.project_id, Job.recipe, Job.attempt, Job.max_attempts, Job.fence, Job.wanted, served_at)
        .execution_options(synchronize_session=False)
    )
    row = session.execute(claimed).one_or_none()
    if row is None:
        return None
    job_id, project_id, recipe, attempt, max_attempts, fence, wanted, seen = row
    turn = update(Project).where(Project.id == project_id, Project.served_at == seen)
    if session.scalar(turn.values(served_at=database_now()).returning(Project.id)) is None:
        raise Overtaken
    return Claim(job_id, project_id, recipe, attempt, max_attempts, fence, worker_id, wanted)


def unheld(session: Session, limit: int = 100) -> Sequence[tuple[Job, Standing]]:
    """Jobs that no worker holds and none shall take as they are, locked: their owner wants something else of them,
    their time is over, or no attempt is left."""
    overdue = func.coalesce(Job.deadline_at <= database_now(), false())
    unwanted = and_(or_(Job.state == State.queued, _expired(Job)), Job.wanted.in_((Wanted.pause, Wanted.cancel)))
    late = and_(or_(Job.state == State.queued, _expired(Job)), overdue, Job.wanted == Wanted.run)
    spent = and_(_expired(Job), Job.attempt >= Job.max_attempts)
    found = select(Job, overdue).where(or_(unwanted, late, spent)).limit(limit)
    rows = session.execute(found.with_for_update(of=Job, skip_locked=True))
    return [(job, Standing(job.wanted, late)) for job, late in rows]


def write(session: Session, claim: Claim, **values: Any) -> Standing:
    """Change a job that the worker holds, or only make sure that it does and goes on to until the transaction ends;
    gives how it stands.

    Raises LostLease when the job has a newer fence or does not run any more.
    """
    held = update(Job).where(Job.id == claim.job_id, Job.fence == claim.fence, Job.state == State.running)
    overdue = func.coalesce(Job.deadline_at <= database_now(), false())
    changed = held.values(values or {"fence": claim.fence}).returning(Job.wanted, overdue)
    row = session.execute(changed.execution_options(synchronize_session=False)).one_or_none()
    if row is None:
        raise LostLease(f"job {claim.job_id} is not held by {claim.worker_id} under fence {claim.fence} any more")
    return Standing(*row)


def last_change(session: Session, job_id: str, kinds: Sequence[str]) -> Event | None:
    """The newest event of one of those kinds."""
    found = select(Event).where(Event.job_id == job_id, Event.kind.in_(kinds)).order_by(Event.number.desc()).limit(1)
    return session.scalar(found)


def read_latest(session: Session, job_id: str) -> dict[str, Any]:
    """The newest metrics of each network."""
    latest: dict[str, Any] = session.scalars(select(Job.latest).where(Job.id == job_id)).one()
    return latest


def see(session: Session, worker_id: str, *, host: str, job_id: str | None, machine: Machine) -> None:
    """Note that a worker is alive, what it does and what it has."""
    values = {"job_id": job_id, "seen_at": database_now(), **asdict(machine)}
    known = update(Worker).where(Worker.id == worker_id).values(values).returning(Worker.id)
    if session.scalar(known) is None:
        session.execute(insert(Worker).values(id=worker_id, host=host, started_at=database_now(), **values))


def forget(session: Session, worker_id: str) -> None:
    """Note that a worker has gone."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def forget_silent(session: Session, seconds: float) -> None:
    """Drop workers that were not heard from for that long."""
    session.execute(delete(Worker).where(Worker.seen_at < database_now() - seconds))


def alive(session: Session, within_seconds: float) -> Sequence[Worker]:
    """The workers that were heard from within that time."""
    return session.scalars(select(Worker).where(Worker.seen_at >= database_now() - within_seconds)).all()


def _claimable(job: type[Job]) -> ColumnElement[bool]:
    queued = and_(job.state == State.queued, job.not_before <= database_now())
    left_behind = and_(_expired(job), job.attempt < job.max_attempts)
    return and_(or_(queued, left_behind), job.wanted.in_((Wanted.run, Wanted.stop)))


def _fits(job: type[Job], machine: Machine) -> ColumnElement[bool]:
    """Whether the machine has what the job needs."""
    enough = and_(job.needs_memory_bytes <= machine.memory_bytes, job.needs_disk_bytes <= machine.disk_bytes)
    return enough if machine.gpu is not None else and_(enough, job.needs_gpu.is_(False))


def _has_room() -> ColumnElement[bool]:
    """Whether the project may have one more job running."""
    running = aliased(Job)
    count = (
        select(func.count())
        .select_from(running)
        .where(running.project_id == Project.id, running.state == State.running)
        .correlate(Project)
        .scalar_subquery()
    )
    return or_(Project.max_running.is_(None), count < Project.max_running)


def _expired(job: type[Job]) -> ColumnElement[bool]:
    return and_(job.state == State.running, job.lease_ends <= database_now())
