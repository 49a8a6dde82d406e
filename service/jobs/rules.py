"""Which state of a job may follow which, and who may ask for it; every change of state is checked here."""

from __future__ import annotations

from enum import StrEnum

from service.errors import Conflict
from service.jobs.models import TERMINAL, State


class Asker(StrEnum):
    """Who wants a job to change."""

    owner = "owner"
    worker = "worker"


OWNER, WORKER = frozenset({Asker.owner}), frozenset({Asker.worker})

MAY_FOLLOW: dict[State, dict[State, frozenset[Asker]]] = {
    State.queued: {
        State.running: WORKER,
        State.cancelled: OWNER | WORKER,
        State.failed: WORKER,  # no attempt is left
    },
    State.running: {
        State.running: WORKER,  # the lease ran out and another worker takes over
        State.queued: WORKER,  # another attempt, or a worker that had to stop
        State.succeeded: WORKER,
        State.failed: WORKER,
        State.cancelled: OWNER | WORKER,  # the owner's only once no worker holds the job
    },
    State.paused: {State.queued: OWNER, State.cancelled: OWNER},
    State.succeeded: {},
    State.failed: {},
    State.cancelled: {},
}
"""For each state, what may come next and who may ask for that. From a final state nothing follows."""


def may_follow(old: State, new: State, asker: Asker) -> bool:
    """Whether that change is allowed."""
    return asker in MAY_FOLLOW[old].get(new, frozenset())


def check_follow(job_id: str, old: State, new: State, asker: Asker) -> None:
    """Raise Conflict, in one sentence, when that change is not allowed."""
    if not may_follow(old, new, asker):
        raise Conflict(f"job {job_id} is {old.value}; it cannot become {new.value}")


def check_delete(job_id: str, state: State) -> None:
    """Raise Conflict unless the job has ended: what a worker may still write to must stay."""
    if state not in TERMINAL:
        raise Conflict(f"job {job_id} is {state.value}; only a job that has ended can be deleted, so cancel it first")
