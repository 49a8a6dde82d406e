"""The life of a job as rules: which state may follow which, who may ask for it, and what a wish does.

The API and the workers change states through these tables and nowhere else. docs/reliability.md draws them.
"""

from __future__ import annotations

from enum import StrEnum

from service.errors import Conflict
from service.jobs.models import TERMINAL, State, Wanted


class Asker(StrEnum):
    """The side that wants a job to change."""

    owner = "owner"
    worker = "worker"


LONGEST_PAUSE_SECONDS = 60
"""The longest wait before another attempt; it doubles from two seconds on."""


def longest_lease(lease_seconds: float) -> float:
    """Seconds that a lease lasts at most: twice a worker's own, since others may have another setting for a while."""
    return 2 * lease_seconds


OWNER, WORKER = frozenset({Asker.owner}), frozenset({Asker.worker})

MAY_FOLLOW: dict[State, dict[State, frozenset[Asker]]] = {
    State.queued: {
        State.running: WORKER,
        State.paused: OWNER | WORKER,
        State.cancelled: OWNER | WORKER,
        State.failed: WORKER,  # its time is over
    },
    State.running: {
        State.running: WORKER,  # the lease ran out and another worker takes over
        State.queued: WORKER,  # another attempt, or a worker that had to stop
        State.paused: OWNER | WORKER,  # the owner's only once no worker holds the job
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

MAY_WANT: dict[Wanted, frozenset[Wanted]] = {
    Wanted.run: frozenset(Wanted),
    Wanted.pause: frozenset(Wanted),
    Wanted.stop: frozenset({Wanted.stop, Wanted.cancel}),
    Wanted.cancel: frozenset({Wanted.cancel}),
}
"""For each wish, what its owner may wish next: pausing can be taken back, an end cannot."""

VERBS = {Wanted.run: "resumed", Wanted.pause: "paused", Wanted.stop: "stopped", Wanted.cancel: "cancelled"}
"""The participle of each wish, for sentences."""


def may_follow(old: State, new: State, asker: Asker) -> bool:
    """Whether that change is allowed."""
    return asker in MAY_FOLLOW[old].get(new, frozenset())


def check_follow(job_id: str, old: State, new: State, asker: Asker) -> None:
    """Raise Conflict, in one sentence, when that change is not allowed."""
    if not may_follow(old, new, asker):
        raise Conflict(f"job {job_id} is {old.value}; it cannot become {new.value}")


def check_wish(job_id: str, state: State, wanted: Wanted, wish: Wanted) -> None:
    """Raise Conflict, in one sentence, when the owner may not wish that any more."""
    if state in TERMINAL:
        raise Conflict(f"job {job_id} is {state.value}; it cannot be {VERBS[wish]} any more")
    if wish not in MAY_WANT[wanted]:
        raise Conflict(f"job {job_id} is to be {VERBS[wanted]}; it cannot be {VERBS[wish]} any more")


def is_fulfilled(state: State, wanted: Wanted, wish: Wanted) -> bool:
    """Whether the job has ended as was wished: asking again changes nothing and is no error."""
    if wish is Wanted.cancel:
        return state is State.cancelled
    return wish is Wanted.stop and wanted is Wanted.stop and state in (State.succeeded, State.cancelled)


def state_after(state: State, wish: Wanted, *, held: bool, started: bool) -> State:
    """The state that a job which has not ended gets at once when its owner wishes that; the rest is left to a worker.

    `held`: a worker holds it. `started`: it was started before, so that there may be something to keep.
    """
    if held:
        return state
    if wish is Wanted.cancel or (wish is Wanted.stop and not started):
        return State.cancelled
    if wish is Wanted.pause:
        return State.paused
    return State.queued if state is State.paused else state


def check_delete(job_id: str, state: State) -> None:
    """Raise Conflict unless the job has ended: what a worker may still write to must stay."""
    if state not in TERMINAL:
        raise Conflict(f"job {job_id} is {state.value}; only a job that has ended can be deleted, so cancel it first")


def diagram() -> str:
    """The states and what may follow, as a Mermaid state diagram; arrows name who may ask."""
    arrows = [
        f"    {old} --> {new}: {' or '.join(sorted(askers))}"
        for old, following in MAY_FOLLOW.items()
        for new, askers in following.items()
    ]
    ends = [f"    {state} --> [*]" for state in State if state in TERMINAL]
    return "\n".join(["stateDiagram-v2", "    [*] --> queued: owner", *arrows, *ends])
