"""All SQL about the ownership of jobs: claims, leases, fences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Select,
    and_,
    bindparam,
    case,
    false,
    func,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.dml import ReturningUpdate

from service.db import database_now, is_over
from service.jobs.models import EventRow, JobRow, State, Wanted
from service.jobs.repository import is_state
from service.jobs.rules import LONGEST_PAUSE_SECONDS, longest_lease
from service.projects.models import ProjectRow
from service.workers.repository import Machine


class LostLease(RuntimeError):
    """Another worker holds the job by now, or it has ended: this one may not write to it any more."""


class ClaimConflict(RuntimeError):
    """Another worker took the job or its project's turn in the same moment: this claim must be taken back and tried
    again."""


@dataclass(frozen=True)
class Claim:
    """A worker's right to a job: every write of that worker names its fence."""

    job_id: str
    project_id: str
    kind: str
    spec: dict[str, Any]
    """The spec, whatever the kind."""
    attempt: int
    max_attempts: int
    fence: int
    worker_id: str
    wanted: Wanted
    """`run`, or `stop`: then there is only something to keep."""


@dataclass(frozen=True)
class JobStanding:
    """The standing of a job at the moment of a write."""

    wanted: Wanted
    overdue: bool
    """Whether its wall-clock time is over."""


def claim_best(session: Session, worker_id: str, lease_seconds: float, machine: Machine) -> Claim | None:
    """Take the best job that the machine can run, and its project's turn; None when there is none.

    Fair between projects (the one served longest ago first), then by priority, then by age. Of two workers at once
    the second waits for the first, and then has to look again (ClaimConflict): the job is gone, the project's turn is
    over, and its limit may be reached.
    """
    best, claimed = _claim_statements(machine.gpu is not None)
    offer = {
        "memory_bytes": machine.memory_bytes,
        "disk_bytes": machine.disk_bytes,
        "longest_lease": longest_lease(lease_seconds),
    }
    row = session.execute(claimed, {**offer, "worker_id": worker_id, "lease_seconds": lease_seconds}).one_or_none()
    if row is None:
        if session.scalar(best, offer) is None:
            return None
        raise ClaimConflict
    job_id, project_id, kind, spec, attempt, max_attempts, fence, wanted, seen = row
    turn = update(ProjectRow).where(ProjectRow.id == project_id, ProjectRow.served_at == seen)
    if session.scalar(turn.values(served_at=database_now()).returning(ProjectRow.id)) is None:
        raise ClaimConflict
    return Claim(job_id, project_id, kind, spec, attempt, max_attempts, fence, worker_id, wanted)


def unheld(session: Session, lease_seconds: float, limit: int = 100) -> Sequence[tuple[JobRow, JobStanding]]:
    """Jobs that no worker holds and none shall take as they are, locked: their owner wants something else of them,
    their time is over, or no attempt is left."""
    rows = session.execute(_unheld_statement(limit), {"longest_lease": longest_lease(lease_seconds)})
    return [(job, JobStanding(job.wanted, late)) for job, late in rows]


@lru_cache
def _unheld_statement(limit: int) -> Select[JobRow, bool]:
    overdue = func.coalesce(JobRow.deadline_at <= database_now(), false())
    waiting, expired = is_state(JobRow, State.queued), _expired(JobRow)
    unwanted, late = JobRow.wanted.in_((Wanted.pause, Wanted.cancel)), and_(JobRow.wanted == Wanted.run, overdue)
    spent = and_(expired, JobRow.attempt >= JobRow.max_attempts)
    # Each is found by an index, however many jobs are queued.
    candidates = union_all(
        select(JobRow.id).where(waiting, unwanted),
        select(JobRow.id).where(waiting, late, JobRow.deadline_at.is_not(None)),
        select(JobRow.id).where(expired, or_(unwanted, late)),
        select(JobRow.id).where(spent),
    )
    # Asked again of the row once it is locked: it may have changed meanwhile.
    found = select(JobRow, overdue).where(
        JobRow.id.in_(candidates), or_(and_(or_(waiting, expired), or_(unwanted, late)), spent)
    )
    return found.limit(limit).with_for_update(of=JobRow, skip_locked=True)


def write(session: Session, claim: Claim, **values: Any) -> JobStanding:
    """Change a job that the worker holds, or only make sure that it does and goes on to until the transaction ends;
    gives how it stands.

    Raises LostLease when the job has a newer fence or does not run any more.
    """
    held = update(JobRow).where(JobRow.id == claim.job_id, JobRow.fence == claim.fence, JobRow.state == State.running)
    overdue = func.coalesce(JobRow.deadline_at <= database_now(), false())
    changed = held.values(values or {"fence": claim.fence}).returning(JobRow.wanted, overdue)
    row = session.execute(changed.execution_options(synchronize_session=False)).one_or_none()
    if row is None:
        raise LostLease(f"job {claim.job_id} is not held by {claim.worker_id} under fence {claim.fence} any more")
    return JobStanding(*row)


def put_aside(session: Session, job_id: str, error: dict[str, Any]) -> None:
    """Let a job fail whose row cannot be read, without reading it."""
    failed = {
        "state": State.failed,
        "error": error,
        "ended_at": database_now(),
        "lease_owner": None,
        "lease_ends": None,
    }
    changed = update(JobRow).where(JobRow.id == job_id).values(failed)
    session.execute(changed.execution_options(synchronize_session=False))


def last_change(session: Session, job_id: str, kinds: Sequence[str]) -> EventRow | None:
    """The newest event of one of those kinds."""
    found = (
        select(EventRow)
        .where(EventRow.job_id == job_id, EventRow.kind.in_(kinds))
        .order_by(EventRow.number.desc())
        .limit(1)
    )
    return session.scalar(found)


def read_progress(session: Session, job_id: str) -> dict[str, Any] | None:
    """The newest progress of a job; None without one."""
    progress: dict[str, Any] | None = session.scalar(select(JobRow.progress).where(JobRow.id == job_id))
    return progress


def read_latest(session: Session, job_id: str) -> dict[str, Any]:
    """The newest metrics of each network."""
    latest: dict[str, Any] = session.scalars(select(JobRow.latest).where(JobRow.id == job_id)).one()
    return latest


@lru_cache
def _claim_statements(
    has_gpu: bool,
) -> tuple[Select[str], ReturningUpdate[str, str, dict[str, Any], int, int, int, Wanted, float]]:
    """The statement that gives the id of the best job for a machine of `memory_bytes` and `disk_bytes`, and the one
    that takes it for `worker_id` and `lease_seconds`. Made once: to put them together takes longer than to run them."""
    best = _best(has_gpu)
    taken = {
        "state": State.running,
        "lease_owner": bindparam("worker_id"),
        "lease_ends": database_now() + bindparam("lease_seconds", type_=Double()),
        "attempt": JobRow.attempt + 1,
        "fence": JobRow.fence + 1,
        "started_at": func.coalesce(JobRow.started_at, database_now()),
    }
    served_at = select(ProjectRow.served_at).where(ProjectRow.id == JobRow.project_id).scalar_subquery()
    claimed = (
        update(JobRow)
        .where(JobRow.id == best.scalar_subquery(), _claimable(JobRow))
        .values(taken)
        .returning(
            *(
                JobRow.id,
                JobRow.project_id,
                JobRow.kind,
                JobRow.spec,
                JobRow.attempt,
                JobRow.max_attempts,
                JobRow.fence,
                JobRow.wanted,
            ),
            served_at,
        )
        .execution_options(synchronize_session=False)
    )
    return best, claimed


def _best(has_gpu: bool) -> Select[str]:
    """The id of the job that the machine should run next, of the best queued one of each project and all that were
    left behind."""
    job, rival, running, best = (aliased(JobRow) for _ in range(4))
    highest = (
        select(rival.priority)
        .where(rival.project_id == ProjectRow.id, _queued(rival), _wanted(rival), _fits(rival, has_gpu))
        .order_by(rival.priority.desc())
        .limit(1)
        .correlate(ProjectRow)
    )
    oldest = (
        select(job.id)
        .where(job.project_id == ProjectRow.id, _queued(job), _wanted(job), _fits(job, has_gpu))
        .where(job.priority == highest.scalar_subquery())
        .order_by(job.created_at, job.id)
        .limit(1)
        .correlate(ProjectRow)
    )
    counted = select(running.project_id, func.count().label("jobs")).where(is_state(running, State.running))
    count = counted.group_by(running.project_id).subquery()
    has_room = or_(ProjectRow.max_running.is_(None), func.coalesce(count.c.jobs, 0) < ProjectRow.max_running)
    candidates = union_all(
        select(oldest.scalar_subquery())
        .outerjoin_from(ProjectRow, count, count.c.project_id == ProjectRow.id)
        .where(has_room),
        select(running.id).where(_left_behind(running), _wanted(running), _fits(running, has_gpu)),
    )
    # A turn that is still to come was noted by a clock that has been set back since.
    served_at = case((ProjectRow.served_at > database_now(), 0.0), else_=ProjectRow.served_at)
    ordered = (
        select(best.id)
        .join(ProjectRow, ProjectRow.id == best.project_id)
        .where(best.id.in_(candidates))
        .order_by(served_at, best.priority.desc(), best.created_at, best.id)
    )
    return ordered.limit(1)


def _claimable(job: type[JobRow]) -> ColumnElement[bool]:
    return and_(or_(_queued(job), _left_behind(job)), _wanted(job))


def _queued(job: type[JobRow]) -> ColumnElement[bool]:
    return and_(is_state(job, State.queued), is_over(job.not_before, LONGEST_PAUSE_SECONDS))


def _left_behind(job: type[JobRow]) -> ColumnElement[bool]:
    return and_(_expired(job), job.attempt < job.max_attempts)


def _wanted(job: type[JobRow]) -> ColumnElement[bool]:
    return job.wanted.in_((Wanted.run, Wanted.stop))


def _fits(job: type[JobRow], has_gpu: bool) -> ColumnElement[bool]:
    """Whether a machine of `memory_bytes` and `disk_bytes` has what the job needs."""
    memory_bytes, disk_bytes = (bindparam(name, type_=BigInteger()) for name in ("memory_bytes", "disk_bytes"))
    enough = and_(job.needs_memory_bytes <= memory_bytes, job.needs_disk_bytes <= disk_bytes)
    return enough if has_gpu else and_(enough, job.needs_gpu.is_(False))


def _expired(job: type[JobRow]) -> ColumnElement[bool]:
    return and_(is_state(job, State.running), is_over(job.lease_ends, bindparam("longest_lease", type_=Double())))
