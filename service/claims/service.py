"""The steps of a worker with a job, each of one transaction: claim, renew, record, and the ways to end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from sqlalchemy import func
from sqlalchemy.orm import Session

from retort.event import Checkpoint, Event, Progress
from retort.recipe import Deadline
from service.artifacts.repository import add_artifact
from service.blobs.repository import BlobDraft, commit_blob
from service.checkpoints import repository as checkpoints
from service.claims import repository
from service.claims.records import check_network, resolved_spec, with_metrics
from service.claims.repository import Claim, ClaimConflict, JobStanding
from service.db import LOST, database_now, read_now
from service.jobs.event_log import Entry, append, change
from service.jobs.models import TERMINAL, JobRow, State, Wanted, at_rest
from service.jobs.rules import LONGEST_PAUSE_SECONDS, Asker, check_follow
from service.workers.repository import Machine

ANYTHING = Machine(gpu="any")
"""A machine that can run every job."""

ATTEMPTS_OF_CODE = 2
"""Attempts of a job that ends through a fault of the code, which does the same thing again."""

log = logging.getLogger(__name__)

Effect = Callable[[Session, Claim, Mapping[str, str]], None]
"""Changes other rows when a job succeeds, in the transaction that ends it; gets the ids of its files' blobs by name."""


class Directive(StrEnum):
    """An instruction to the worker that holds a job."""

    run = "run"
    pause = "pause"
    stop = "stop"
    cancel = "cancel"
    expire = "expire"
    """Its time is over: end it without a result."""


@dataclass(frozen=True)
class Trouble:
    """The reason that an attempt did not finish."""

    fault: Literal["spec", "machine", "service"]
    """The thing at fault: the spec, the machine that ran it, or the service."""
    cause: str
    """One word for programs: `impossible`, `out_of_memory`, `exit_1`, `SIGKILL`, `heartbeat_lost`, ..."""
    detail: str
    """For people."""


@dataclass(frozen=True)
class NewArtifact:
    """A file that the engine left, its bytes in the database and not yet named."""

    name: str
    network: str | None
    media_type: str
    written: BlobDraft


def claim(session: Session, worker_id: str, lease_seconds: float, machine: Machine = ANYTHING) -> Claim | None:
    """Take the best job that the machine can run; None when there is none.

    Jobs that nobody holds and whose owner wants something else of them, or that were lost for good, are settled on
    the way. A job with which that fails is put aside: it fails, and the others go on.
    """
    for job, standing in repository.unheld(session, lease_seconds):
        with _putting_aside(session, job.id):
            _settle_unheld(session, job, standing, worker_id, lease_seconds)
    while (taken := _take_turn(session, worker_id, lease_seconds, machine)) is not None:
        with _putting_aside(session, taken.job_id):
            _begin_attempt(session, taken)
            return taken
    return None


def _begin_attempt(session: Session, taken: Claim) -> None:
    """Note that the job is claimed, that its worker before was lost, and when its time is over."""
    lost = _lost_before(session, taken)
    values: dict[str, Any] = {"phase": None, "progress": None}
    if lost:
        values["error"] = asdict(lost)
    if deadline := _deadline(taken.spec):
        values["deadline_at"] = func.coalesce(JobRow.deadline_at, JobRow.started_at + deadline.seconds)
    repository.write(session, taken, **values)
    entries = [_change(taken, "requeued", lost.detail, **asdict(lost))] if lost else []
    append(session, taken.job_id, taken.attempt, [*entries, _change(taken, "claimed")])


@contextmanager
def _putting_aside(session: Session, job_id: str) -> Iterator[None]:
    """Undo the step when it raises, and let the job fail instead: no other shall wait for one that cannot be read."""
    try:
        with session.begin_nested():
            yield
    except LOST:
        raise
    except Exception:
        log.exception("job %s cannot be read, so it is put aside", job_id)
        detail = f"the job could not be read from the database; the log of the worker has the reason under {job_id}"
        trouble = asdict(Trouble("service", "unreadable", detail))
        repository.put_aside(session, job_id, trouble)
        append(session, job_id, 0, [change("failed", detail, asker="worker", **trouble)])


def _take_turn(session: Session, worker_id: str, lease_seconds: float, machine: Machine) -> Claim | None:
    while True:
        try:
            with session.begin_nested():
                return repository.claim_best(session, worker_id, lease_seconds, machine)
        except ClaimConflict:
            continue  # each time somebody else has got on


def renew(session: Session, claim: Claim, lease_seconds: float) -> Directive:
    """Own the job for that long from now; gives what is to be done with it. Raises LostLease."""
    standing = repository.write(session, claim, lease_ends=database_now() + lease_seconds)
    return _order(session, claim, standing)


def store_checkpoint(session: Session, claim: Claim, checkpoint: Checkpoint, draft: BlobDraft) -> None:
    """Keep a checkpoint with the job. Raises LostLease, and BlobGone when it waited too long."""
    repository.write(session, claim)
    held = {"attempt": claim.attempt, "fence": claim.fence}
    checkpoints.add(
        session, claim.job_id, draft, file=checkpoint.file, phase=checkpoint.phase, step=checkpoint.step, **held
    )


def _order(session: Session, claim: Claim, standing: JobStanding) -> Directive:
    if standing.wanted is not Wanted.run or not standing.overdue:
        return Directive(standing.wanted)
    if not _stops(claim.spec):
        return Directive.expire
    repository.write(session, claim, wanted=Wanted.stop)
    append(session, claim.job_id, claim.attempt, [_change(claim, "stop_wanted", "its time is over")])
    return Directive.stop


def record(session: Session, claim: Claim, events: Sequence[Event], progress: Progress | None, phase: str) -> Directive:
    """Store the engine's events and progress; gives what is to be done with the job. Raises LostLease, and
    InvalidRecord where they say what the job cannot.

    Events that the event log already has are dropped: a resumed run repeats them.
    """
    values: dict[str, Any] = {"phase": phase}
    for event in events:
        check_network(claim.spec, event)
    if progress is not None:
        check_network(claim.spec, progress)
        values["progress"] = progress.model_dump(mode="json", exclude={"line"})
    for event in events:
        if event.kind == "resolved":
            values["spec"] = resolved_spec(claim.kind, claim.spec, event.data)
    standing = repository.write(session, claim, **values)
    new = append(session, claim.job_id, claim.attempt, [_entry(event) for event in events])
    metrics = [entry.body for entry in new if entry.body["network"] and entry.body["values"]]
    if metrics:
        latest = repository.read_latest(session, claim.job_id)
        for body in metrics:
            latest = with_metrics(latest, body["network"], body["values"])
        repository.write(session, claim, latest=latest)
    return _order(session, claim, standing)


def succeed(session: Session, claim: Claim, files: Sequence[NewArtifact], effects: Mapping[str, Effect]) -> State:
    """End the job with its files, and with the effect of its kind, where it has one: service.kinds.EFFECTS.

    Raises LostLease, and BlobGone when a file waited too long.
    """
    _end(session, claim, State.succeeded, error=None)
    blobs = _add_files(session, claim, files)
    if effect := effects.get(claim.kind):
        effect(session, claim, blobs)
    append(session, claim.job_id, claim.attempt, [_change(claim, "succeeded", artifacts=sorted(blobs))])
    return State.succeeded


def _add_files(session: Session, claim: Claim, files: Sequence[NewArtifact]) -> dict[str, str]:
    """Note the files of a job that ends; gives the ids of their blobs by name."""
    blobs: dict[str, str] = {}
    for made in sorted(files, key=lambda made: (made.written.sha256, made.name)):
        blob_id = blobs[made.name] = commit_blob(session, made.written)
        add_artifact(
            session, claim.job_id, name=made.name, network=made.network, media_type=made.media_type, blob_id=blob_id
        )
    return blobs


def fail(session: Session, claim: Claim, trouble: Trouble, files: Sequence[NewArtifact] = ()) -> State:
    """End the job for good, with the files that it made nonetheless. Raises LostLease, and BlobGone as `succeed`."""
    _end(session, claim, State.failed, error=asdict(trouble))
    blobs = _add_files(session, claim, files)
    left = {"artifacts": sorted(blobs)} if blobs else {}
    append(session, claim.job_id, claim.attempt, [_change(claim, "failed", trouble.detail, **asdict(trouble), **left)])
    return State.failed


def expire(session: Session, claim: Claim) -> State:
    """End the job because its time is over. Raises LostLease."""
    return fail(session, claim, _overdue(claim.spec))


def cancel(session: Session, claim: Claim, why: str = "cancelled while it ran") -> State:
    """End the job without a result, as its owner wants or for want of anything to keep. Raises LostLease."""
    _end(session, claim, State.cancelled)
    append(session, claim.job_id, claim.attempt, [_change(claim, "cancelled", why)])
    return State.cancelled


def retry(session: Session, claim: Claim, trouble: Trouble) -> State:
    """Put the job back after an attempt that failed, with a pause; gives its state from now on. Raises LostLease.

    It fails when this was its last attempt, or the second that ends through the code; it is cancelled or paused when
    its owner wants that.
    """
    wanted = repository.write(session, claim).wanted
    if wanted is Wanted.cancel:
        return cancel(session, claim)
    most = min(claim.max_attempts, ATTEMPTS_OF_CODE) if trouble.fault == "service" else claim.max_attempts
    if claim.attempt >= most:
        detail = f"attempt {claim.attempt} of {most}: {trouble.detail}"
        return fail(session, claim, Trouble(trouble.fault, trouble.cause, detail))
    pause = min(LONGEST_PAUSE_SECONDS, 2**claim.attempt)
    again = _change(claim, "requeued", trouble.detail, **asdict(trouble), pause_seconds=pause)
    return _put_back(session, claim, wanted, again, not_before=database_now() + pause, error=asdict(trouble))


def hand_back(session: Session, claim: Claim) -> State:
    """Put the job back because its owner or its worker's wants that; gives its state from now on. Raises LostLease.

    The attempt does not count.
    """
    wanted = repository.write(session, claim).wanted
    if wanted is Wanted.cancel:
        return cancel(session, claim)
    stopped = _change(claim, "requeued", "its worker was asked to stop")
    return _put_back(session, claim, wanted, stopped, attempt=JobRow.attempt - 1, not_before=0.0)


def _put_back(session: Session, claim: Claim, wanted: Wanted, why: Entry, **values: Any) -> State:
    """Leave a job that has not ended: to the queue, or to its owner who paused it."""
    values |= {"phase": None, "progress": None}
    if wanted is Wanted.pause:
        _leave(session, claim, State.paused, **values)
        failed = why.body["data"].get("cause") is not None
        entries = [why, _change(claim, "paused")] if failed else [_change(claim, "paused")]
    else:
        _leave(session, claim, State.queued, **values)
        entries = [why]
    append(session, claim.job_id, claim.attempt, entries)
    return State.paused if wanted is Wanted.pause else State.queued


def _end(session: Session, claim: Claim, state: State, **values: Any) -> None:
    progress = at_rest(repository.read_progress(session, claim.job_id))
    _leave(session, claim, state, ended_at=database_now(), progress=progress, **values)
    checkpoints.drop_all(session, claim.job_id)


def _leave(session: Session, claim: Claim, state: State, **values: Any) -> None:
    check_follow(claim.job_id, State.running, state, Asker.worker)
    repository.write(session, claim, state=state, lease_owner=None, lease_ends=None, **values)


def _settle_unheld(session: Session, job: JobRow, standing: JobStanding, worker_id: str, lease_seconds: float) -> None:
    """Give a job that nobody holds and whose row is locked the state that it should have."""
    held = {"asker": "worker", "worker": worker_id, "fence": job.fence}
    now = read_now(session)
    if job.lease_ends is not None and job.lease_ends > now and standing.wanted in (Wanted.run, Wanted.stop):
        # The clock was set back. Its worker may live, and this is its last attempt: it has a lease more to say so.
        job.lease_ends = now + lease_seconds
        session.flush()
        return
    if standing.overdue and standing.wanted is Wanted.run and _stops(job.spec):
        job.wanted = Wanted.stop
        session.flush()
        append(session, job.id, job.attempt, [change("stop_wanted", "its time is over", **held)])
        return
    lost = _heartbeat_lost(job.lease_owner, job.attempt)
    spent = job.state is State.running and job.attempt >= job.max_attempts
    if standing.wanted is Wanted.cancel:
        state, entry = State.cancelled, change("cancelled", "cancelled while no worker held it", **held)
    elif standing.wanted is Wanted.pause and not spent:
        state, entry = State.paused, change("paused", "paused while no worker held it", **held)
    else:
        trouble = _overdue(job.spec) if standing.overdue and standing.wanted is Wanted.run else lost
        job.error = asdict(trouble)
        state, entry = State.failed, change("failed", trouble.detail, **held, **asdict(trouble))
    check_follow(job.id, job.state, state, Asker.worker)
    job.state, job.lease_owner, job.lease_ends = state, None, None
    job.progress = at_rest(job.progress)
    if state is State.paused:
        job.phase = job.progress = None
    if state in TERMINAL:
        job.ended_at = now
        checkpoints.drop_all(session, job.id)
    session.flush()
    append(session, job.id, job.attempt, [entry])


def _lost_before(session: Session, taken: Claim) -> Trouble | None:
    """The trouble of the attempt before, when its worker never reported: its claim is the job's newest change."""
    newest = repository.last_change(session, taken.job_id, ("created", "claimed", "requeued", "paused"))
    if newest is None or newest.kind != "claimed":
        return None
    return _heartbeat_lost(newest.body["data"]["worker"], newest.attempt)


def _heartbeat_lost(worker_id: str | None, attempt: int) -> Trouble:
    return Trouble("machine", "heartbeat_lost", f"worker {worker_id} was not heard from any more in attempt {attempt}")


def _stops(spec: Mapping[str, Any]) -> bool:
    """Whether a job whose time is over ends early with the best so far."""
    deadline = _deadline(spec)
    return deadline is not None and deadline.then == "stop"


def _overdue(spec: dict[str, Any]) -> Trouble:
    deadline = _deadline(spec)
    limit = f"{deadline.seconds:g} seconds of " if deadline else ""
    return Trouble("spec", "deadline", f"its {limit}wall-clock time are over")


def _deadline(spec: Mapping[str, Any]) -> Deadline | None:
    """The limit of a job's time, if its spec sets one."""
    return Deadline.model_validate(spec["deadline"]) if spec.get("deadline") else None


def _change(claim: Claim, kind: str, text: str | None = None, **data: Any) -> Entry:
    held = {"asker": "worker", "attempt": claim.attempt, "worker": claim.worker_id, "fence": claim.fence}
    return change(kind, text, **held, **data)


def _entry(event: Event) -> Entry:
    return Entry(event.kind, event.model_dump(mode="json", exclude={"line", "kind"}), event.key)
