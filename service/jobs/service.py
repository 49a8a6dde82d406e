"""Reading, listing and deleting jobs, and their owners' wishes."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.orm import Session

from service.access.caller import Caller
from service.checkpoints import repository as checkpoints
from service.db import read_now, reading
from service.errors import NotFound, quote
from service.jobs import repository, rules, waiting
from service.jobs.event_log import append, change
from service.jobs.models import TERMINAL, JobRow, State, Wanted, at_rest
from service.jobs.schemas import JobDetail, JobQuery, detail
from service.jobs.uses import check_unused
from service.paging import Position
from service.settings import get_settings
from service.wake_up import wake_after_commit

LIFE = {
    Wanted.run: "resumed",
    Wanted.pause: "pause_wanted",
    Wanted.stop: "stop_wanted",
    Wanted.cancel: "cancel_wanted",
}
"""The event that each wish is, while its job goes on."""


def read(session: Session, caller: Caller, job_id: str) -> JobRow:
    """The job. Raises NotFound, for another project's job as for none."""
    return _existing(repository.find(session, caller.project_id, job_id), job_id)


def describe(session: Session, job: JobRow) -> JobDetail:
    """The job as it is shown alone; says why it waits."""
    return detail(job, waiting.explain(session, job) if job.state is State.queued else None)


def check_exists(caller: Caller, job_id: str) -> None:
    """Raise NotFound unless the caller's project has that job."""
    with reading() as session:
        read(session, caller, job_id)


def page(session: Session, caller: Caller, query: JobQuery, after: Position | None, limit: int) -> Sequence[JobRow]:
    """Jobs that the query asks for, newest first."""
    return repository.page(session, caller.project_id, query, after, limit)


def wish(session: Session, caller: Caller, job_id: str, wanted: Wanted) -> JobRow:
    """Change at once what no worker holds; of a running job, ask its worker. Raises NotFound and Conflict.

    Wishing the same again changes nothing.
    """
    job = _existing(repository.lock(session, caller.project_id, job_id), job_id)
    if rules.is_fulfilled(job.state, job.wanted, wanted):
        return job
    rules.check_wish(job.id, job.state, job.wanted, wanted)
    now = read_now(session)
    running = job.state is State.running
    longest = rules.longest_lease(get_settings().lease_seconds)
    held = running and job.lease_ends is not None and now < job.lease_ends <= now + longest
    # Lost in its last attempt, a job has failed, as the next worker that looks notes: no pause spares it that.
    lost = running and job.attempt >= job.max_attempts and wanted is Wanted.pause
    new = rules.state_after(job.state, wanted, held=held or lost, started=job.started_at is not None)
    if new is job.state and wanted is job.wanted:
        return job
    before, job.wanted = job.state, wanted
    kind, text = LIFE[wanted], None
    if new is not before:
        _move(session, job, new, now)
        if new is not State.queued:
            kind = new.value
        if new is State.cancelled and wanted is Wanted.stop:
            text = "it was not started yet, so there is nothing to keep"
    append(session, job.id, job.attempt, [change(kind, text, asker="owner", key=caller.key_id, fence=job.fence)])
    return job


def _move(session: Session, job: JobRow, new: State, now: float) -> None:
    """Give a job that no worker holds another state."""
    rules.check_follow(job.id, job.state, new, rules.Asker.owner)
    if job.state is State.running:
        job.lease_owner = job.lease_ends = None
        job.fence += 1  # a worker that lost its lease and still writes is refused
    job.state = new
    job.progress = at_rest(job.progress)
    if new is State.paused:
        job.phase = job.progress = None
    if new is State.queued:
        wake_after_commit(session)
    if new in TERMINAL:
        job.ended_at = now
        checkpoints.drop_all(session, job.id)


def delete(session: Session, caller: Caller, job_id: str) -> None:
    """Remove a job that has ended and that no other builds on, with all that it made. Raises NotFound and Conflict."""
    job = _existing(repository.lock(session, caller.project_id, job_id), job_id)
    rules.check_delete(job.id, job.state)
    check_unused(session, caller.project_id, job_id)
    repository.remove(session, job)


def _existing(job: JobRow | None, job_id: str) -> JobRow:
    if job is None:
        raise NotFound(f"there is no job {quote(job_id)}")
    return job
