"""What a worker may do to a job, each a step of one transaction: claim, renew, record, and the ways to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy.orm import Session

from service.artifacts.repository import Written, add_artifact, commit_blob
from service.db import database_now
from service.events.repository import Entry, append, change
from service.jobs.models import Job, State, Wanted
from service.jobs.rules import Asker, check_follow
from service.workers import repository
from service.workers.repository import Claim
from worker.event import Event, Progress

LONGEST_PAUSE_SECONDS = 60
"""The longest wait before another attempt; it doubles from two seconds on."""


@dataclass(frozen=True)
class Trouble:
    """Why an attempt did not finish."""

    fault: Literal["recipe", "machine", "service"]
    """Whose fault it is: what was asked for, the machine that ran it, or our own."""
    cause: str
    """One word for programs: `impossible`, `out_of_memory`, `exit_1`, `SIGKILL`, `heartbeat_lost`, ..."""
    detail: str
    """For people."""


@dataclass(frozen=True)
class Made:
    """A file that the engine left, its bytes in the database and not yet named."""

    name: str
    network: str | None
    media_type: str
    written: Written


def claim(session: Session, worker_id: str, lease_seconds: float) -> Claim | None:
    """Take the best job that can be run; None when there is none.

    Jobs that were cancelled or lost for good while nobody held them are ended on the way.
    """
    for job in repository.hopeless(session):
        _end_unheld(session, job, worker_id)
    taken = repository.claim_best(session, worker_id, lease_seconds)
    if taken is None:
        return None
    repository.serve_project(session, taken.project_id)
    lost = _lost_before(session, taken)
    if lost:
        repository.write(session, taken, error=asdict(lost), progress=None)
    entries = [_change(taken, "requeued", lost.detail, **asdict(lost))] if lost else []
    append(session, taken.job_id, taken.attempt, [*entries, _change(taken, "claimed")])
    return taken


def renew(session: Session, claim: Claim, lease_seconds: float) -> Wanted:
    """Own the job for that long from now; gives what its owner wants. Raises LostLease."""
    return repository.write(session, claim, lease_ends=database_now() + lease_seconds)


def record(session: Session, claim: Claim, events: Sequence[Event], progress: Progress | None, phase: str) -> Wanted:
    """Write down what the engine said; gives what the owner wants. Raises LostLease.

    Events that the diary already has are dropped: a resumed run says them again.
    """
    values: dict[str, Any] = {"phase": phase}
    if progress is not None:
        values["progress"] = progress.model_dump(mode="json", exclude={"line"})
    for event in events:
        if event.kind == "resolved":
            values["recipe"] = event.data
    wanted = repository.write(session, claim, **values)
    new = append(session, claim.job_id, claim.attempt, [_entry(event) for event in events])
    metrics = [entry.body for entry in new if entry.body["student"] and entry.body["values"]]
    if metrics:
        latest = repository.read_latest(session, claim.job_id)
        for body in metrics:
            latest = {**latest, body["student"]: {**latest.get(body["student"], {}), **body["values"]}}
        repository.write(session, claim, latest=latest)
    return wanted


def succeed(session: Session, claim: Claim, files: Sequence[Made]) -> State:
    """End the job with its files. Raises LostLease, and BlobGone when a file waited too long."""
    _leave(session, claim, State.succeeded, ended_at=database_now(), error=None)
    for made in sorted(files, key=lambda made: (made.written.sha256, made.name)):
        blob_id = commit_blob(session, made.written)
        add_artifact(
            session, claim.job_id, name=made.name, network=made.network, media_type=made.media_type, blob_id=blob_id
        )
    names = sorted(made.name for made in files)
    append(session, claim.job_id, claim.attempt, [_change(claim, "succeeded", artifacts=names)])
    return State.succeeded


def fail(session: Session, claim: Claim, trouble: Trouble) -> State:
    """End the job for good. Raises LostLease."""
    _leave(session, claim, State.failed, ended_at=database_now(), error=asdict(trouble))
    append(session, claim.job_id, claim.attempt, [_change(claim, "failed", trouble.detail, **asdict(trouble))])
    return State.failed


def cancel(session: Session, claim: Claim) -> State:
    """End the job as its owner wants. Raises LostLease."""
    _leave(session, claim, State.cancelled, ended_at=database_now())
    append(session, claim.job_id, claim.attempt, [_change(claim, "cancelled", "cancelled while it ran")])
    return State.cancelled


def retry(session: Session, claim: Claim, trouble: Trouble) -> State:
    """Put the job back after an attempt that failed, with a pause; gives its state from now on. Raises LostLease.

    It fails when this was its last attempt, and is cancelled when its owner wants that.
    """
    if repository.write(session, claim, progress=None) is Wanted.cancel:
        return cancel(session, claim)
    if claim.attempt >= claim.max_attempts:
        detail = f"attempt {claim.attempt} of {claim.max_attempts}: {trouble.detail}"
        return fail(session, claim, Trouble(trouble.fault, trouble.cause, detail))
    pause = min(LONGEST_PAUSE_SECONDS, 2**claim.attempt)
    _leave(session, claim, State.queued, not_before=database_now() + pause, error=asdict(trouble))
    again = _change(claim, "requeued", trouble.detail, **asdict(trouble), pause_seconds=pause)
    append(session, claim.job_id, claim.attempt, [again])
    return State.queued


def hand_back(session: Session, claim: Claim) -> State:
    """Put the job back because the worker has to stop; gives its state from now on. Raises LostLease.

    The attempt does not count.
    """
    if repository.write(session, claim, progress=None) is Wanted.cancel:
        return cancel(session, claim)
    _leave(session, claim, State.queued, attempt=Job.attempt - 1, not_before=0.0)
    append(session, claim.job_id, claim.attempt, [_change(claim, "requeued", "its worker was stopped")])
    return State.queued


def _leave(session: Session, claim: Claim, state: State, **values: Any) -> None:
    check_follow(claim.job_id, State.running, state, Asker.worker)
    repository.write(session, claim, state=state, lease_owner=None, lease_ends=None, **values)


def _end_unheld(session: Session, job: Job, worker_id: str) -> None:
    """End a job that nobody holds and whose row is locked: as its owner wants, or for want of attempts."""
    lost = _heartbeat_lost(job.lease_owner, job.attempt)
    cancelled = job.wanted is Wanted.cancel
    state = State.cancelled if cancelled else State.failed
    check_follow(job.id, job.state, state, Asker.worker)
    data = {"attempt": job.attempt, "worker": worker_id, "fence": job.fence}
    if cancelled:
        entry = change("cancelled", "cancelled while no worker held it", **data)
    else:
        job.error = asdict(lost)
        entry = change("failed", lost.detail, **data, **asdict(lost))
    job.state, job.lease_owner, job.lease_ends = state, None, None
    job.ended_at = session.scalar(database_now().select())
    session.flush()
    append(session, job.id, job.attempt, [entry])


def _lost_before(session: Session, taken: Claim) -> Trouble | None:
    """What became of the attempt before, when its worker never said: its claim is the job's newest change."""
    newest = repository.last_change(session, taken.job_id, ("created", "claimed", "requeued"))
    if newest is None or newest.kind != "claimed":
        return None
    return _heartbeat_lost(newest.body["data"]["worker"], newest.attempt)


def _heartbeat_lost(worker_id: str | None, attempt: int) -> Trouble:
    return Trouble("machine", "heartbeat_lost", f"worker {worker_id} was not heard from any more in attempt {attempt}")


def _change(claim: Claim, kind: str, text: str | None = None, **data: Any) -> Entry:
    held = {"attempt": claim.attempt, "worker": claim.worker_id, "fence": claim.fence}
    return change(kind, text, **held, **data)


def _entry(event: Event) -> Entry:
    return Entry(event.kind, event.model_dump(mode="json", exclude={"line", "kind"}), event.key)
