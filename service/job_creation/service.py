"""Making a job of any kind: once for each idempotency key, within the limits of its project, and queued."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from retort.kinds import DISTILL
from retort.spec import Spec
from service.access.caller import Caller
from service.errors import FieldError, Invalid, ServiceError, quote
from service.ids import new_id
from service.jobs import repository
from service.jobs.event_log import FIRST, begin, change
from service.jobs.models import JobRow, State, Wanted
from service.settings import get_settings
from service.usage.service import check_queue
from service.wake_up import wake_after_commit


@dataclass(frozen=True)
class Submission:
    """A caller's request to make a job."""

    kind: str
    body: Any
    idempotency_key: str | None = None

    @property
    def digest(self) -> str:
        """sha256, hex, of kind and body as values: neither spaces nor the order of fields count."""
        value = self.body if self.kind == DISTILL else [self.kind, self.body]
        return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def enqueue(
    session: Session, caller: Caller, sent: Submission, spec: Spec, *, tags: Sequence[str] = (), **columns: Any
) -> tuple[JobRow, bool]:
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
    job = JobRow(
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


def made_before(session: Session, caller: Caller, sent: Submission) -> JobRow | None:
    """The job that the same key and body made; None without one, or without a key.

    Raises Invalid for a key that made another body's job.
    """
    if sent.idempotency_key is None:
        return None
    job = repository.by_idempotency_key(session, caller.project_id, sent.idempotency_key)
    if job is not None and job.body_digest != sent.digest:
        key = quote(sent.idempotency_key)
        detail = f"the idempotency key {key} has made job {job.id} of another body; wanted a new key"
        raise Invalid.of([FieldError(parameter="Idempotency-Key", detail=detail, found=sent.idempotency_key)])
    return job
