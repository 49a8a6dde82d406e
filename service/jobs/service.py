"""What one can do with jobs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from retort.estimate import Estimate
from retort.kinds import DISTILL, ESTIMATE
from retort.recipe import Recipe
from retort.spec import Spec
from retort.validation import Problem, disk_bytes
from service.checkpoints import repository as checkpoints
from service.db import read_now, reading
from service.errors import MOST_ERRORS, FieldError, Invalid, NotFound, ServiceError, quote
from service.events.repository import FIRST, append, begin, change
from service.ids import new_id
from service.jobs import repository, rules, waiting
from service.jobs.models import TERMINAL, Job, State, Wanted
from service.jobs.schemas import JobDetail, JobQuery, Validation, detail
from service.jobs.uses import check_unused, hold
from service.jobs.validation import as_sent, examine
from service.keys.service import Caller
from service.paging import Position
from service.settings import get_settings
from service.usage.service import check_queue, measure
from service.wake_up import wake_after_commit

LIFE = {
    Wanted.run: "resumed",
    Wanted.pause: "pause_wanted",
    Wanted.stop: "stop_wanted",
    Wanted.cancel: "cancel_wanted",
}
"""The event that each wish is, while its job goes on."""


@dataclass(frozen=True)
class Sent:
    """What a caller sent to have a job made."""

    kind: str
    body: Any
    idempotency_key: str | None = None

    @property
    def digest(self) -> str:
        """sha256, hex, of kind and body as values: neither spaces nor the order of fields count."""
        value = self.body if self.kind == DISTILL else [self.kind, self.body]
        return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def validate(caller: Caller, body: Any) -> Validation:
    """All that is wrong, what is odd, and the recipe as it would be stored; queues nothing."""
    found = examine(caller.project_id, body)
    return Validation(
        valid=not found.problems,
        problems=found.problems[:MOST_ERRORS],
        warnings=list(found.warnings),
        resolved=found.resolved.model_dump(mode="json") if found.resolved else None,
        sharing=[list(group) for group in found.sharing],
        facts=found.facts,
    )


def create(session: Session, caller: Caller, body: Any, idempotency_key: str | None) -> tuple[Job, bool]:
    """A new queued job, or the one that the same key and body made before, and whether it is that one.

    Raises Invalid with all that is wrong. The session takes no connection before the recipe has been examined, which
    may look through a folder of images.
    """
    examination = examine(caller.project_id, body)
    measure(caller.project_id)
    sent = Sent(DISTILL, body, idempotency_key)
    made = made_before(session, caller, sent)
    if made is not None:
        return made, True
    if examination.problems:
        raise Invalid.of(examination.problems)
    recipe = examination.resolved
    if recipe is None:
        raise RuntimeError("a recipe without problems was not resolved")
    held = hold_sent(session, caller.project_id, sent, recipe)
    return enqueue(
        session,
        caller,
        sent,
        recipe,
        name=recipe.name,
        tags=recipe.tags,
        priority=recipe.priority,
        needs_gpu=recipe.needs.gpu,
        needs_memory_bytes=int(recipe.needs.memory_gib * 2**30),
        needs_disk_bytes=disk_bytes(recipe) + held,
    )


def estimate(session: Session, caller: Caller, body: Any, idempotency_key: str | None) -> tuple[Job, bool]:
    """A queued job that tells what a recipe would take, or the one that the same key and body made before, and whether
    it is that one. Raises Invalid with all that is wrong."""
    examination = examine(caller.project_id, body)
    sent = Sent(ESTIMATE, body, idempotency_key)
    made = made_before(session, caller, sent)
    if made is not None:
        return made, True
    recipe = examination.resolved
    if recipe is None:
        raise Invalid.of(examination.problems)
    return enqueue(
        session,
        caller,
        sent,
        Estimate(recipe=recipe),
        name=f"estimates {recipe.name}".strip()[:200],
        needs_gpu=recipe.needs.gpu,
        needs_memory_bytes=int(recipe.needs.memory_gib * 2**30),
        needs_disk_bytes=hold_sent(session, caller.project_id, sent, recipe),
    )


def enqueue(
    session: Session, caller: Caller, sent: Sent, spec: Spec, *, tags: Sequence[str] = (), **columns: Any
) -> tuple[Job, bool]:
    """A new queued job of any kind, or the one that the same key and body made before, and whether it is that one.

    `columns` are the job's own: its name, priority and needs. Raises Invalid for a key that made another body's job,
    and TooManyRequests and TooLarge when the project has reached its limits.
    """
    try:
        now = check_queue(session, caller.project_id)
    except ServiceError:
        if made := made_before(session, caller, sent):  # by a request of the same moment, which took the last place
            return made, True
        raise
    job = Job(
        id=new_id("job", now),
        project_id=caller.project_id,
        kind=sent.kind,
        state=State.queued,
        wanted=Wanted.run,
        spec=spec.model_dump(mode="json"),
        latest={},
        attempt=0,
        max_attempts=get_settings().max_attempts,
        idempotency_key=sent.idempotency_key,
        body_digest=sent.digest,
        next_event=FIRST + 1,  # the first one is written with it
        created_at=now,
        **columns,
    )
    if repository.add(session, job, tags):
        begin(session, job, change("created", asker="owner", key=caller.key_id, fence=0))
        wake_after_commit(session)
        return job, False
    made = made_before(session, caller, sent)
    if made is None:
        raise RuntimeError("a job could not be stored, though no other has its idempotency key")
    return made, True


def hold_sent(session: Session, project_id: str, sent: Sent, recipe: Recipe) -> int:
    """Keep what a recipe uses from being deleted until the transaction ends; gives the bytes that a worker fetches.
    Raises Invalid, pointing into what was sent, for what was deleted since the recipe was examined."""
    try:
        return hold(session, project_id, DISTILL, recipe.model_dump(mode="json"))
    except Invalid as refusal:
        gone = [Problem(error.pointer or "", error.detail) for error in refusal.errors]
        raise Invalid.of(as_sent(gone, sent.body)) from None


def made_before(session: Session, caller: Caller, sent: Sent) -> Job | None:
    """The job that the same key and body made; None without one, or without a key.

    Raises Invalid for a key that made another body's job.
    """
    if sent.idempotency_key is None:
        return None
    job = repository.by_idempotency_key(session, caller.project_id, sent.idempotency_key)
    if job is not None and job.body_digest != sent.digest:
        key = quote(sent.idempotency_key)
        said = f"the idempotency key {key} has made job {job.id} of another body; wanted a new key"
        raise Invalid.of([FieldError(parameter="Idempotency-Key", detail=said, found=sent.idempotency_key)])
    return job


def read(session: Session, caller: Caller, job_id: str) -> Job:
    """The job. Raises NotFound, for another project's job as for none."""
    return _existing(repository.find(session, caller.project_id, job_id), job_id)


def describe(session: Session, job: Job) -> JobDetail:
    """The job as it is shown alone; says why it waits."""
    return detail(job, waiting.explain(session, job) if job.state is State.queued else None)


def check_exists(caller: Caller, job_id: str) -> None:
    """Raise NotFound unless the caller's project has that job."""
    with reading() as session:
        read(session, caller, job_id)


def page(session: Session, caller: Caller, query: JobQuery, after: Position | None, limit: int) -> Sequence[Job]:
    """Jobs that the query asks for, newest first."""
    return repository.page(session, caller.project_id, query, after, limit)


def wish(session: Session, caller: Caller, job_id: str, wanted: Wanted) -> Job:
    """Change at once what no worker holds; of a running job, ask its worker. Raises NotFound and Conflict.

    Wishing the same again changes nothing.
    """
    job = _existing(repository.lock(session, caller.project_id, job_id), job_id)
    if rules.is_fulfilled(job.state, job.wanted, wanted):
        return job
    rules.check_wish(job.id, job.state, job.wanted, wanted)
    now = read_now(session)
    running = job.state is State.running
    held = running and job.lease_ends is not None and job.lease_ends > now
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


def _move(session: Session, job: Job, new: State, now: float) -> None:
    """Give a job that no worker holds another state."""
    rules.check_follow(job.id, job.state, new, rules.Asker.owner)
    if job.state is State.running:
        job.lease_owner = job.lease_ends = None
        job.fence += 1  # a worker that lost its lease and still writes is refused
    job.state = new
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


def _existing(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise NotFound(f"there is no job {quote(job_id)}")
    return job
