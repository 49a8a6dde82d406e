"""What must hold for every job, looked at all the time while things break, and once more at the end."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import SQLAlchemyError

from service.db import database_now
from service.jobs.models import TERMINAL, EventRow, JobRow, State
from service.jobs.rules import MAY_FOLLOW

LOOK_SECONDS = 0.3
ENDINGS = {state.value for state in TERMINAL}
LIFE = {
    "created", "claimed", "requeued", "pause_wanted", "paused", "resumed", "stop_wanted", "cancel_wanted", *ENDINGS,
}  # fmt: skip
"""Kinds of events that tell of the job's own life; all others are the engine's."""
LEAVES = {"requeued", "paused", *ENDINGS}
"""Kinds after which nobody holds the job."""
UNHELD_CAUSES = {"heartbeat_lost", "deadline"}
"""Of changes that a worker may make to a job which nobody holds."""

COLUMNS = (
    JobRow.id, JobRow.state, JobRow.attempt, JobRow.max_attempts, JobRow.fence, JobRow.lease_owner, JobRow.lease_ends,
    JobRow.next_event,
)  # fmt: skip
LINE = (EventRow.number, EventRow.kind, EventRow.attempt, EventRow.key, EventRow.body)


@dataclass(frozen=True)
class Line:
    """An event as it was seen."""

    number: int
    kind: str
    attempt: int
    key: str | None
    body: dict[str, Any]

    @property
    def data(self) -> dict[str, Any]:
        return self.body.get("data") or {}


def reachable() -> dict[State, set[State]]:
    """For each state all that may come later."""
    found = {state: set(after) for state, after in MAY_FOLLOW.items()}
    for _ in State:
        for later in found.values():
            later |= {further for state in list(later) for further in found[state]}
    return found


class Watcher:
    """Looks at the database from a connection of its own and notes what must not be."""

    def __init__(self, engine: Engine) -> None:
        self.violations: list[str] = []
        self.event_logs: dict[str, list[Line]] = defaultdict(list)
        self.rows: dict[str, Any] = {}
        self._doubled: dict[tuple[str, str], tuple[float, float]] = {}
        """The ends of the leases of two jobs with one holder, when they were first seen."""
        self.looks = 0
        self.missed = 0
        """Looks that came to nothing, since the database was away."""
        self._engine = engine
        self._later = reachable()
        self._ended = threading.Event()
        self._looking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._engine.dispose()

    def look(self) -> None:
        """One look, at one moment of the database. Raises SQLAlchemyError while it is away."""
        with self._looking, self._engine.connect() as opened:
            snapshot = {} if self._engine.dialect.name == "sqlite" else {"isolation_level": "REPEATABLE READ"}
            with opened.execution_options(retort_reads=True, **snapshot) as connection, connection.begin():
                self._compare(connection)
            self.looks += 1

    def all_ended(self, job_ids: Sequence[str]) -> bool:
        """Whether each of those jobs has been seen in its final state."""
        return all(job_id in self.rows and self.rows[job_id].state in TERMINAL for job_id in job_ids)

    def in_state(self, *states: State) -> list[str]:
        return [job_id for job_id, row in list(self.rows.items()) if row.state in states]

    def _run(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            try:
                self.look()
            except SQLAlchemyError:
                self.missed += 1

    def _compare(self, connection: Connection) -> None:
        now = connection.scalar(select(database_now())) or 0.0
        rows = {row.id: row for row in connection.execute(select(*COLUMNS))}
        for job_id in self.rows.keys() - rows.keys():
            self._object(job_id, "is gone")
        self._compare_holders([row for row in rows.values() if row.lease_ends is not None and row.lease_ends > now])
        for job_id, row in rows.items():
            if job_id in self.rows:
                self._compare_row(self.rows[job_id], row)
            if (row.lease_owner is None) is (row.state is State.running):
                self._object(job_id, f"is {row.state.value} and its lease belongs to {row.lease_owner}")
            if not 0 <= row.attempt <= row.max_attempts:
                self._object(job_id, f"is in attempt {row.attempt} of {row.max_attempts}")
            self._read_news(connection, row)
        self.rows = rows

    def _compare_holders(self, held: Sequence[Any]) -> None:
        """A worker that gives a job up, since it may have lost it, may claim another while the first is leased to it
        still; but it renews one lease alone."""
        doubled = {}
        for one, other in combinations(sorted(held, key=lambda row: row.id), 2):
            if one.lease_owner == other.lease_owner:
                ends = self._doubled.get((one.id, other.id), (one.lease_ends, other.lease_ends))
                doubled[one.id, other.id] = ends
                if one.lease_ends > ends[0] and other.lease_ends > ends[1]:
                    self._object(one.id, f"and {other.id} are both renewed by {one.lease_owner}")
        self._doubled = doubled

    def _compare_row(self, before: Any, now: Any) -> None:
        if now.state is not before.state and now.state not in self._later[before.state]:
            self._object(now.id, f"was {before.state.value} and is {now.state.value}")
        if now.fence < before.fence:
            self._object(now.id, f"had the fence {before.fence} and has {now.fence}")
        if now.next_event < before.next_event:
            self._object(now.id, f"lost events: {before.next_event - 1} were there, {now.next_event - 1} are")
        if before.state in TERMINAL and now.next_event != before.next_event:
            self._object(now.id, f"had ended as {before.state.value} and its event log went on")

    def _read_news(self, connection: Connection, row: Any) -> None:
        known = self.event_logs[row.id]
        if row.next_event - 1 == len(known):
            return
        found = select(*LINE).where(EventRow.job_id == row.id, EventRow.number > len(known)).order_by(EventRow.number)
        for event in connection.execute(found):
            known.append(Line(*event))
        if [line.number for line in known] != list(range(1, row.next_event)):
            numbers = [line.number for line in known]
            self._object(row.id, f"has the next event {row.next_event} and the numbers {numbers}")

    def _object(self, job_id: str, what: str) -> None:
        said = f"job {job_id} {what}"
        if said not in self.violations:
            self.violations.append(said)


def check_event_log(state: State, fence: int, event_log: Sequence[Line]) -> list[str]:
    """Faults in the event log of a job that has ended."""
    wrong: list[str] = []
    if [line.number for line in event_log] != list(range(1, len(event_log) + 1)):
        wrong.append("its events have gaps or repeats")
    ends = [line for line in event_log if line.kind in ENDINGS]
    if len(ends) != 1 or event_log[-1] is not ends[0] or ends[0].kind != state.value:
        wrong.append(f"it is {state.value} and its event log ends with {[line.kind for line in event_log[-4:]]}")
    keys = [line.key for line in event_log if line.key is not None]
    if len(set(keys)) != len(keys):
        wrong.append("a record is there twice")
    return wrong + _check_claims(fence, event_log)


def _check_claims(last_fence: int, event_log: Sequence[Line]) -> list[str]:
    """Whether each claim has its own, rising fence, and all that follows it until it is left is the holder's."""
    wrong: list[str] = []
    claim: Line | None = None
    held = False
    for line in event_log:
        if line.kind == "claimed":
            if claim is not None and line.data["fence"] <= claim.data["fence"]:
                wrong.append(f"event {line.number} claims under a fence that is not above {claim.data['fence']}")
            claim, held = line, True
        elif line.kind not in LIFE:
            if claim is None or not held or line.attempt != claim.attempt:
                wrong.append(f"event {line.number}, {line.kind}, is of attempt {line.attempt}, which nobody held")
        elif line.data["asker"] == "owner":
            held = held and line.kind not in LEAVES
        else:
            wrong += _check_change(line, claim, held)
            held = held and line.kind not in LEAVES
    if claim is not None and claim.data["fence"] > last_fence:
        wrong.append(f"a claim bears the fence {claim.data['fence']}, the job {last_fence}")
    return wrong


def _check_change(line: Line, claim: Line | None, held: bool) -> list[str]:
    """A worker changes what it holds; or it found the job left behind, and says so."""
    if line.data.get("cause") in UNHELD_CAUSES or "no worker held it" in (line.body.get("text") or ""):
        return []
    own = claim is not None and all(line.data[name] == claim.data[name] for name in ("fence", "worker"))
    if own and (held or line.kind == "paused"):  # which may follow the word why the attempt ended
        return []
    return [f"event {line.number}, {line.kind}, bears {line.data} and the claim before it {claim and claim.data}"]
