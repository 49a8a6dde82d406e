"""The life of jobs against a model: any order of what owners, workers, time and the operator may do.

One test plays long random stories, one step after the other, and a model in plain Python says beforehand what each
step gives and how every row then looks. The other lets threads do the same at once, and asks only for what must hold
whatever the order was. The longer forms of both are marked `long`.
"""

from __future__ import annotations

import io
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, func, insert, select, update

import service.db
from retort.event import Checkpoint, Event, Progress
from service.access.caller import Caller
from service.backup import disown
from service.blobs.repository import write_blob
from service.checkpoints.models import CheckpointRow as StoredCheckpoint
from service.claims.repository import Claim, LostLease
from service.claims.service import (
    Directive,
    NewArtifact,
    Trouble,
    cancel,
    claim,
    expire,
    fail,
    hand_back,
    record,
    renew,
    retry,
    store_checkpoint,
    succeed,
)
from service.db import Base, database_now, get_engine, make_engine, reading, transaction
from service.errors import Conflict, NotFound
from service.jobs.event_log import append, change
from service.jobs.models import TERMINAL, JobRow, State, Wanted
from service.jobs.models import EventRow as Line
from service.jobs.rules import MAY_FOLLOW
from service.jobs.service import delete as delete_job
from service.jobs.service import wish
from service.kinds import EFFECTS
from service.projects.models import ProjectRow
from service.workers.repository import Machine
from tests.faults.watch import Watcher, check_event_log
from tests.servers import wait_until
from tests.service.rows import RECIPE, add_job, add_project

pytestmark = pytest.mark.usefixtures("database")

LEASE_SECONDS = 30.0
CRASH = Trouble("machine", "exit_1", "it crashed")
PROJECTS = ("left", "right")
MOST_OPEN = 4
"""How many jobs of a story have not ended: few, so that much happens to each."""
WRITES = (renew, record, store_checkpoint, succeed, fail, cancel, retry, hand_back)
LIFE = {
    "created",
    "claimed",
    "requeued",
    "pause_wanted",
    "paused",
    "resumed",
    "stop_wanted",
    "cancel_wanted",
} | TERMINAL
WISH_EVENTS = {
    Wanted.run: "resumed", Wanted.pause: "pause_wanted", Wanted.stop: "stop_wanted", Wanted.cancel: "cancel_wanted",
}  # fmt: skip


@dataclass
class Expected:
    """A job as the model knows it."""

    id: str
    project: str
    priority: int
    created_at: float
    max_attempts: int
    needs_gpu: bool
    deadline: dict[str, Any] | None
    state: State = State.queued
    wanted: Wanted = Wanted.run
    attempt: int = 0
    fence: int = 0
    lease_owner: str | None = None
    lease_ends: float | None = None
    not_before: float = 0.0
    started_at: float | None = None
    deadline_at: float | None = None
    life: list[str] = field(default_factory=lambda: ["created"])
    """Kinds of the events of its life."""
    steps: set[int] = field(default_factory=set)
    """Of the metrics in its event log."""
    checkpoints: list[tuple[int, str]] = field(default_factory=list)
    """The newest two with the fences of their claims, oldest first: by claim, and by number."""

    def expired(self, now: float) -> bool:
        return self.state is State.running and self.lease_ends is not None and self.lease_ends <= now

    def overdue(self, now: float) -> bool:
        return self.deadline_at is not None and self.deadline_at <= now

    def leave(self, state: State, *life: str) -> None:
        self.state, self.lease_owner, self.lease_ends = state, None, None
        self.life += life
        if state in TERMINAL:
            self.checkpoints = []

    def settle(self, now: float) -> None:
        """What the next worker that looks makes of it, when nobody holds it."""
        late = self.wanted is Wanted.run and self.overdue(now)
        spent = self.expired(now) and self.attempt >= self.max_attempts
        if not (self.expired(now) or self.state is State.queued):
            return
        if late and self.deadline is not None and self.deadline["then"] == "stop":
            self.wanted = Wanted.stop
            self.life.append("stop_wanted")
        elif self.wanted is Wanted.cancel:
            self.leave(State.cancelled, "cancelled")
        elif late or spent:
            self.leave(State.failed, "failed")
        elif self.wanted is Wanted.pause:
            self.leave(State.paused, "paused")

    def claimable(self, now: float, *, gpu: bool, has_room: bool) -> bool:
        ready = self.state is State.queued and self.not_before <= now and has_room
        left_behind = self.expired(now) and self.attempt < self.max_attempts
        return (ready or left_behind) and self.wanted in (Wanted.run, Wanted.stop) and (gpu or not self.needs_gpu)

    def row(self) -> dict[str, Any]:
        names = ("state", "wanted", "attempt", "fence", "lease_owner", "lease_ends", "not_before", "started_at")
        return {name: getattr(self, name) for name in (*names, "deadline_at")}


@dataclass
class World:
    """All that the model knows."""

    now: float = 1_800_000_000.0
    jobs: dict[str, Expected] = field(default_factory=dict)
    served_at: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PROJECTS, 0.0))
    max_running: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(PROJECTS))

    def running(self, project: str) -> int:
        return sum(job.project == project and job.state is State.running for job in self.jobs.values())

    def has_room(self, project: str) -> bool:
        most = self.max_running[project]
        return most is None or self.running(project) < most

    def best(self, *, gpu: bool) -> Expected | None:
        """The job that is to be claimed next: of the project served longest ago, then by priority, then by age."""
        able = [
            job for job in self.jobs.values() if job.claimable(self.now, gpu=gpu, has_room=self.has_room(job.project))
        ]
        able.sort(key=lambda job: (self.served_at[job.project], -job.priority, job.created_at, job.id))
        return able[0] if able else None


class Story:
    """What happens to jobs, a step after another."""

    def __init__(self) -> None:
        self.world = World()
        self.kept: tuple[World, dict[str, list[Any]]] | None = None
        self.writes: Counter[str] = Counter()
        """How often each write under a claim was granted and refused."""
        self.claims: list[Claim] = []
        """All that were ever given."""
        self.job_ids: list[str] = []
        """Of all jobs that there ever were."""
        self.highest_fence = 0
        self.before: dict[str, State] = {}
        self.tick(0)
        with transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
        for name in PROJECTS:
            add_project(name)

    def open_jobs(self) -> list[Expected]:
        return [job for job in self.world.jobs.values() if job.state not in TERMINAL]

    def tick(self, seconds: float) -> None:
        self.world.now += seconds
        service.db.clock_offset_seconds = self.world.now

    def create(
        self, project: str, priority: int, max_attempts: int, needs_gpu: bool, deadline: tuple[str, int] | None
    ) -> None:
        if len(self.open_jobs()) == MOST_OPEN:
            return
        self.tick(0.5)
        limit = {"then": deadline[0], "seconds": deadline[1]} if deadline else None
        values = {"priority": priority, "max_attempts": max_attempts, "needs_gpu": needs_gpu}
        job_id = add_job(f"project_{project}", spec={**RECIPE, "deadline": limit}, **values)
        with transaction() as session:
            append(session, job_id, 0, [change("created", asker="owner", fence=0)])
        self.world.jobs[job_id] = Expected(
            job_id, project, priority, self.world.now, max_attempts, needs_gpu, deadline=limit
        )
        self.job_ids.append(job_id)

    def claim(self, worker: str, gpu: bool) -> None:
        self.tick(0.5)
        with transaction() as session:
            taken = claim(session, worker, LEASE_SECONDS, Machine(gpu="some" if gpu else None))
        for job in self.world.jobs.values():
            job.settle(self.world.now)
        job = self.world.best(gpu=gpu)
        assert (taken and taken.job_id) == (job and job.id)
        if taken is None or job is None:
            return
        lost = [kind for kind in job.life if kind in ("created", "claimed", "requeued", "paused")][-1] == "claimed"
        job.life += ["requeued", "claimed"] if lost else ["claimed"]
        job.state, job.lease_owner, job.lease_ends = State.running, worker, self.world.now + LEASE_SECONDS
        job.attempt += 1
        job.fence += 1
        job.started_at = job.started_at or self.world.now
        if job.deadline is not None and job.deadline_at is None:
            job.deadline_at = job.started_at + job.deadline["seconds"]
        self.world.served_at[job.project] = self.world.now
        assert (taken.attempt, taken.fence, taken.wanted) == (job.attempt, job.fence, job.wanted)
        self.claims.append(taken)

    def act(self, back: int, action: Callable[..., Any], *arguments: Any) -> tuple[Expected | None, Any]:
        """Do something under a claim, counted from the newest: the job, when the model lets it be done, and what came
        of it."""
        claim = self.claims[-1 - back % len(self.claims)]
        job = self.world.jobs.get(claim.job_id)
        self.tick(0.5)
        valid = job is not None and job.state is State.running and job.fence == claim.fence
        self.writes[f"{action.__name__} {'granted' if valid else 'refused'}"] += 1
        if not valid:
            with pytest.raises(LostLease), transaction() as session:
                action(session, claim, *arguments)
            return None, None
        with transaction() as session:
            return job, action(session, claim, *arguments)

    def order(self, job: Expected) -> Directive:
        """What a worker is told to do with a job."""
        if job.wanted is not Wanted.run or not job.overdue(self.world.now) or job.deadline is None:
            return Directive(job.wanted)
        if job.deadline["then"] == "fail":
            return Directive.expire
        job.wanted = Wanted.stop
        job.life.append("stop_wanted")
        return Directive.stop

    def renew(self, back: int) -> None:
        job, order = self.act(back, renew, LEASE_SECONDS)
        if job is not None:
            job.lease_ends = self.world.now + LEASE_SECONDS
            assert order is self.order(job)

    def record(self, back: int, first: int, count: int) -> None:
        said = [
            Event(kind="metrics", phase="distilling", network="student", step=step, values={"loss": 1.0})
            for step in range(first, first + count)
        ]
        job, order = self.act(back, record, said, Progress(phase="distilling"), "distilling")
        if job is not None:
            job.steps |= set(range(first, first + count))
            assert order is self.order(job)

    def store_checkpoint(self, back: int, number: int) -> None:
        said = Checkpoint(file=f"{number:08d}-{number % 2}", phase="distilling", step=number)
        written = write_blob(io.BytesIO(said.file.encode()))
        job, _ = self.act(back, store_checkpoint, said, written)
        if job is not None and said.file not in [file for _, file in job.checkpoints]:
            job.checkpoints = sorted([*job.checkpoints, (job.fence, said.file)])[-2:]

    def succeed(self, back: int) -> None:
        files = [NewArtifact("student.txt", "student", "text/plain", write_blob(io.BytesIO(b"weights")))]
        job, state = self.act(back, succeed, files, EFFECTS)
        if job is not None:
            assert state is State.succeeded
            job.leave(State.succeeded, "succeeded")

    def end(self, back: int, step: Callable[..., State]) -> None:
        if step is expire and self.claims[-1 - back % len(self.claims)].spec["deadline"] is None:
            return
        job, state = self.act(back, step, *([CRASH] if step is fail else []))
        if job is not None:
            assert state is (State.cancelled if step is cancel else State.failed)
            job.leave(state, state.value)

    def retry(self, back: int) -> None:
        job, state = self.act(back, retry, CRASH)
        if job is None:
            return
        if job.wanted is Wanted.cancel:
            job.leave(State.cancelled, "cancelled")
        elif job.attempt >= job.max_attempts:
            job.leave(State.failed, "failed")
        else:
            job.not_before = self.world.now + min(60, 2**job.attempt)
            self.put_back(job, failed=True)
        assert state is job.state

    def hand_back(self, back: int) -> None:
        job, state = self.act(back, hand_back)
        if job is None:
            return
        if job.wanted is Wanted.cancel:
            job.leave(State.cancelled, "cancelled")
        else:
            job.attempt -= 1
            job.not_before = 0.0
            self.put_back(job, failed=False)
        assert state is job.state

    def put_back(self, job: Expected, *, failed: bool) -> None:
        if job.wanted is Wanted.pause:
            job.leave(State.paused, *(["requeued"] if failed else []), "paused")
        else:
            job.leave(State.queued, "requeued")

    def wish(self, back: int, wanted: Wanted) -> None:
        self.tick(0.5)
        job_id = self.job_ids[-1 - back % len(self.job_ids)]
        job = self.world.jobs.get(job_id)
        try:
            with transaction() as session:
                wish(session, owner(job.project if job else PROJECTS[0]), job_id, wanted)
            refused = False
        except (Conflict, NotFound):
            refused = True
        assert refused is (job is None or not self.granted(job, wanted))

    def granted(self, job: Expected, wanted: Wanted) -> bool:
        """Let the owner have the wish; whether that may be."""
        if job.state in TERMINAL:
            stopped = wanted is Wanted.stop is job.wanted and job.state is not State.failed
            return stopped or (wanted is Wanted.cancel and job.state is State.cancelled)
        may = {Wanted.cancel: {Wanted.cancel}, Wanted.stop: {Wanted.stop, Wanted.cancel}}
        if wanted not in may.get(job.wanted, set(Wanted)):
            return False
        unheld = job.expired(self.world.now) or job.state is not State.running
        if not unheld:
            new = job.state
        elif wanted is Wanted.cancel or (wanted is Wanted.stop and job.started_at is None):
            new = State.cancelled
        elif wanted is Wanted.pause:
            # One that was lost in its last attempt is not spared its end.
            new = job.state if job.state is State.running and job.attempt >= job.max_attempts else State.paused
        else:
            new = State.queued if job.state is State.paused else job.state
        if (new, wanted) == (job.state, job.wanted):
            return True
        job.wanted = wanted
        if new is job.state:
            job.life.append(WISH_EVENTS[wanted])
        else:
            job.fence += job.state is State.running
            life = new.value if new is not State.queued else WISH_EVENTS[wanted]
            job.leave(new, life)
        return True

    def delete(self, back: int) -> None:
        job_id = self.job_ids[-1 - back % len(self.job_ids)]
        job = self.world.jobs.get(job_id)
        if job is not None and job.state in TERMINAL:
            with transaction() as session:
                delete_job(session, owner(job.project), job_id)
            del self.world.jobs[job_id]
        else:
            with pytest.raises((Conflict, NotFound)), transaction() as session:
                delete_job(session, owner(job.project if job else PROJECTS[0]), job_id)

    def limit(self, project: str, most: int | None) -> None:
        with transaction() as session:
            session.execute(update(ProjectRow).where(ProjectRow.name == project).values(max_running=most))
        self.world.max_running[project] = most

    def wait(self, seconds: float) -> None:
        self.tick(seconds)

    def keep(self) -> None:
        """Make a backup."""
        with reading() as session:
            rows = {table.name: session.execute(select(table)).all() for table in Base.metadata.sorted_tables}
        self.kept = deepcopy(self.world), rows

    def restore(self) -> None:
        """Let the database go back to its backup; all claims of before are still at large."""
        if self.kept is None:
            return
        self.tick(0.5)
        world, rows = deepcopy(self.kept[0]), self.kept[1]
        world.now, self.world = self.world.now, world
        with transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
            for table in Base.metadata.sorted_tables:
                if rows[table.name]:
                    session.execute(insert(table), [dict(row._mapping) for row in rows[table.name]])
            disown(session.connection(), "the database went back", above=self.highest_fence)
            fences = dict(session.execute(select(JobRow.id, JobRow.fence)).all())
        for job in world.jobs.values():
            assert fences[job.id] > self.highest_fence
            job.fence = fences[job.id]
            if job.state is State.running:
                job.lease_ends, job.attempt = 0.0, max(0, job.attempt - 1)
                job.life.append("requeued")
        self.before = {}

    def holds(self) -> None:
        names = [*Expected.row(Expected("", "", 0, 0, 0, False, None)), "next_event"]
        with reading() as session:
            rows = {
                row.id: row for row in session.execute(select(JobRow.id, *(getattr(JobRow, name) for name in names)))
            }
            lines: dict[str, list[Any]] = {job_id: [] for job_id in rows}
            for line in session.execute(
                select(Line.job_id, Line.number, Line.kind, Line.body).order_by(Line.job_id, Line.number)
            ):
                lines[line.job_id].append(line)
            stored: dict[str, list[tuple[int, str]]] = {job_id: [] for job_id in rows}
            columns = StoredCheckpoint.job_id, StoredCheckpoint.fence, StoredCheckpoint.file
            for job_id, fence, file in session.execute(select(*columns).order_by(*columns)):
                stored[job_id].append((fence, file))
        assert rows.keys() == self.world.jobs.keys()
        for job in self.world.jobs.values():
            row, event_log = rows[job.id], lines[job.id]
            assert rounded({name: getattr(row, name) for name in job.row()}) == rounded(job.row())
            assert [line.number for line in event_log] == list(range(1, row.next_event))
            assert [line.kind for line in event_log if line.kind in LIFE] == job.life
            steps = [line.body["step"] for line in event_log if line.kind == "metrics"]
            assert sorted(steps) == sorted(job.steps)
            assert stored[job.id] == job.checkpoints
            # And what must hold of any model.
            assert 0 <= row.attempt <= job.max_attempts
            assert (row.state is State.running) == (row.lease_owner is not None) == (row.lease_ends is not None)
            ends = [line for line in event_log if line.kind in TERMINAL]
            assert [line.kind for line in ends] == ([row.state.value] if row.state in TERMINAL else [])
            assert not ends or (ends[0] is event_log[-1] and not stored[job.id])
            old = self.before.get(job.id, row.state)
            assert row.state is old or row.state in MAY_FOLLOW[old]
        self.before = {job_id: row.state for job_id, row in rows.items()}
        self.highest_fence = max([self.highest_fence, *(row.fence for row in rows.values())])


def rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Times to a millisecond: databases and Python add them up in another order."""
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in values.items()}


def owner(project: str) -> Caller:
    """Who may have wishes of that project's jobs."""
    return cast(Caller, SimpleNamespace(project_id=f"project_{project}", key_id="key_1"))


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The database's clock shows the offset alone, so that time passes only where a test says so."""
    compile_as = database_now._compiler_dispatcher.specs  # type: ignore[attr-defined]
    for dialect in ("sqlite", "postgresql"):
        monkeypatch.setitem(
            compile_as, dialect, lambda element, compiler, **options: compiler.process(element.clauses, **options)
        )
    monkeypatch.setattr(service.db, "clock_offset_seconds", 0.0)
    get_engine().clear_compiled_cache()
    yield
    get_engine().clear_compiled_cache()


def back(chance: random.Random) -> int:
    """Which claim or job, counted from the newest: old ones too, for old workers live on and owners ask late."""
    return chance.choice([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 3, 5, 8])


STEPS: dict[str, tuple[int, Callable[[Story, random.Random], None]]] = {
    "create": (3, lambda story, chance: story.create(
        chance.choice(PROJECTS), chance.randint(-1, 1), chance.choice([1, 1, 2, 3]), chance.random() < 0.2,
        chance.choice([None, None, ("fail", 40), ("stop", 40), ("stop", 5)]),
    )),
    "claim": (7, lambda story, chance: story.claim(chance.choice("abc"), gpu=chance.random() < 0.7)),
    "renew": (3, lambda story, chance: story.renew(back(chance))),
    "record": (8, lambda story, chance: story.record(back(chance), chance.randint(1, 5), chance.randint(0, 3))),
    "store_checkpoint": (4, lambda story, chance: story.store_checkpoint(back(chance), chance.randint(1, 6))),
    "succeed": (1, lambda story, chance: story.succeed(back(chance))),
    "end": (6, lambda story, chance: story.end(back(chance), chance.choice([fail, fail, cancel, cancel, expire]))),
    "retry": (2, lambda story, chance: story.retry(back(chance))),
    "hand_back": (2, lambda story, chance: story.hand_back(back(chance))),
    "wish": (7, lambda story, chance: story.wish(back(chance), chance.choice([*Wanted, Wanted.pause, Wanted.run]))),
    "delete": (1, lambda story, chance: story.delete(back(chance))),
    "limit": (2, lambda story, chance: story.limit(chance.choice(PROJECTS), chance.choice([None, 1, 1, 2]))),
    "wait": (2, lambda story, chance: story.wait(chance.choice([1.0, 3.0, 61.0]))),
    "lose": (3, lambda story, chance: story.wait(LEASE_SECONDS + 1)),
    "keep": (1, lambda story, chance: story.keep()),
    "restore": (1, lambda story, chance: story.restore()),
}  # fmt: skip
"""How likely each step is, and what it does; a number decides the rest of it."""
NEED = {
    **dict.fromkeys(("renew", "record", "store_checkpoint", "succeed", "end", "retry", "hand_back"), "claims"),
    **dict.fromkeys(("wish", "delete"), "job_ids"),
}
"""What there must be before a step can be taken."""


STEP_BYTES = 4
"""Bytes of which a step of a story is made."""


def tell(steps: list[tuple[str, int]]) -> Counter[str]:
    """Take the steps and look at everything after each; how often each was taken."""
    story, taken = Story(), Counter[str]()
    for place, (name, number) in enumerate(steps):
        if name not in NEED or getattr(story, NEED[name]):
            STEPS[name][1](story, random.Random(f"{place} {number}"))
            story.holds()
            taken[name] += 1
    return taken + story.writes


def play(examples: int, length: int) -> None:
    """Tell random stories; each write under a claim is granted and refused many times in them."""
    seen: Counter[str] = Counter()
    likely = [name for name, (weight, _) in STEPS.items() for _ in range(weight)]
    # Bytes, since among numbers and texts Hypothesis mixes those that it finds in the modules that are imported: the
    # stories would depend on which tests are run beside this one.
    size = STEP_BYTES * length

    @settings(
        max_examples=examples, deadline=None, database=None, derandomize=examples < 1000, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.binary(min_size=size, max_size=size))
    def any_story(drawn: bytes) -> None:
        parts = [drawn[at : at + STEP_BYTES] for at in range(0, size, STEP_BYTES)]
        steps = [(likely[part[0] % len(likely)], int.from_bytes(part[1:])) for part in parts]
        note(f"{steps}")
        seen.update(tell(steps))

    any_story()
    wanted = [*STEPS, *(f"{action.__name__} {how}" for action in WRITES for how in ("granted", "refused"))]
    few = {name: seen[name] for name in wanted if seen[name] < 3}
    assert not few, "stories that tell so little of something prove nothing of it"


@pytest.mark.parametrize("examples", [40, pytest.param(150, marks=pytest.mark.long)])
def test_any_story_goes_as_the_model_says(still_clock: None, examples: int) -> None:
    play(examples=examples, length=60)


@pytest.mark.long
@pytest.mark.longest
def test_thousands_of_stories_go_as_the_model_says(still_clock: None) -> None:
    play(examples=3000, length=60)


def test_a_job_lost_in_its_last_attempt_is_not_spared_its_end_by_a_pause(still_clock: None) -> None:
    story = Story()
    story.create("left", priority=0, max_attempts=1, needs_gpu=False, deadline=None)
    story.claim("a", gpu=False)
    story.wait(31.0)
    story.wish(0, Wanted.pause)
    story.wish(0, Wanted.run)
    story.wish(0, Wanted.pause)
    story.claim("b", gpu=False)
    story.holds()
    [job] = story.world.jobs.values()
    assert job.life == ["created", "claimed", "pause_wanted", "resumed", "pause_wanted", "failed"]


class Crowd:
    """Workers and owners that do as chance wills, at once, with short leases on the real clock."""

    lease_seconds = 0.5

    def __init__(self, jobs: int, seed: int) -> None:
        self.projects = [add_project(name) for name in PROJECTS]
        with transaction() as session:
            session.execute(update(ProjectRow).where(ProjectRow.name == PROJECTS[0]).values(max_running=1))
        chance = random.Random(seed)
        self.seed = seed
        self.job_ids = [self.new_job(chance) for _ in range(jobs)]
        self.stopped = threading.Event()
        self.done: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def new_job(self, chance: random.Random) -> str:
        limit = {"then": chance.choice(["fail", "stop"]), "seconds": 3.0} if chance.random() < 0.1 else None
        recipe = {**RECIPE, "deadline": limit}
        values = {"priority": chance.randint(-1, 1), "max_attempts": chance.randint(2, 5)}
        job_id = add_job(chance.choice(self.projects), spec=recipe, **values)
        with transaction() as session:
            append(session, job_id, 0, [change("created", asker="owner", fence=0)])
        return job_id

    def work(self, number: int) -> None:
        """Claim jobs and do something with them; sometimes fall asleep with one until the lease is over."""
        chance, name = random.Random(f"{self.seed} {number}"), f"worker_{number}"
        while not self.stopped.is_set():
            with transaction() as session:
                taken = claim(session, name, self.lease_seconds)
            if taken is None:
                time.sleep(0.01)
                continue
            try:
                self.carry_out(taken, chance)
            except LostLease:
                self.refused["worker"] += 1

    def carry_out(self, taken: Claim, chance: random.Random) -> None:
        order = Directive.run
        for step in range(chance.randint(1, 6)):
            if chance.random() < 0.04:
                time.sleep(2 * self.lease_seconds)
            said = [Event(kind="metrics", phase="distilling", network="student", step=step, values={"loss": 1.0})]
            if chance.random() < 0.3:
                file = Checkpoint(file=f"{step:08d}-{taken.fence}", phase="distilling", step=step)
                written = write_blob(io.BytesIO(file.file.encode()))
                with transaction() as session:
                    store_checkpoint(session, taken, file, written)
            with transaction() as session:
                order = record(session, taken, said, None, "distilling")
                renew(session, taken, self.lease_seconds)
            if order is not Directive.run:
                break
        self.conclude(taken, order, chance)

    def conclude(self, taken: Claim, order: Directive, chance: random.Random) -> None:
        ways: dict[Directive, list[Callable[..., State]]] = {
            Directive.run: [succeed, hand_back, retry, fail], Directive.stop: [succeed, cancel, retry],
            Directive.pause: [hand_back, retry], Directive.cancel: [cancel, hand_back], Directive.expire: [expire],
        }  # fmt: skip
        way = chance.choice(ways[order])
        more: list[Any] = [CRASH] if way in (retry, fail) else []
        if way is succeed:
            content = chance.choice([b"same", taken.job_id.encode()])
            more = [[NewArtifact("student.txt", "student", "text/plain", write_blob(io.BytesIO(content)))], EFFECTS]
        with transaction() as session:
            self.done[way(session, taken, *more).value] += 1

    def own(self, number: int) -> None:
        """Have wishes of any job."""
        chance = random.Random(f"{self.seed} owner {number}")
        while not self.stopped.is_set():
            job_id, wanted = chance.choice(self.job_ids), chance.choice([*Wanted, Wanted.pause, Wanted.run, Wanted.run])
            with reading() as session:
                project = session.get_one(JobRow, job_id).project_id
            try:
                with transaction() as session:
                    wish(session, owner(project.removeprefix("project_")), job_id, wanted)
                self.done[wanted.value] += 1
            except Conflict:
                self.refused["owner"] += 1
            time.sleep(chance.uniform(0, 0.1))

    def all_ended(self) -> bool:
        with reading() as session:
            states = session.scalars(select(JobRow.state)).all()
        return all(state in TERMINAL for state in states)

    def resume_all(self) -> None:
        for job_id in self.job_ids:
            with reading() as session:
                job = session.get_one(JobRow, job_id)
            if job.wanted is Wanted.pause and job.state not in TERMINAL:
                with transaction() as session:
                    wish(session, owner(job.project_id.removeprefix("project_")), job_id, Wanted.run)


class Limits(Watcher):
    """Looks also how many jobs of a project run."""

    def _compare(self, connection: Connection) -> None:
        super()._compare(connection)
        full = (
            select(ProjectRow.name, func.count())
            .join(JobRow, JobRow.project_id == ProjectRow.id)
            .where(JobRow.state == State.running)
            .group_by(ProjectRow.id)
            .having(func.count() > ProjectRow.max_running)
        )
        for name, count in connection.execute(full):
            self._object(name, f"has {count} running jobs")


def crowd(database_url: str, *, workers: int, jobs: int, seconds: float, seed: int) -> Crowd:
    """Let them loose for that long, then let all jobs end; all that must hold is looked at meanwhile and after."""
    people = Crowd(jobs, seed)
    with Limits(make_engine(database_url)) as watcher, ThreadPoolExecutor(workers + 2) as pool:
        owners = [pool.submit(people.own, number) for number in range(2)]
        working = [pool.submit(people.work, number) for number in range(workers)]
        ends = time.monotonic() + seconds
        while time.monotonic() < ends and not any(future.done() for future in [*owners, *working]):
            time.sleep(0.05)
        try:
            wait_until(lambda: people.resume_all() or people.all_ended(), "all jobs end", 120)
        finally:
            people.stopped.set()
        for future in [*owners, *working]:
            future.result()
        watcher.look()
    assert watcher.violations == []
    for job_id in people.job_ids:
        row = watcher.rows[job_id]
        assert check_event_log(row.state, row.fence, watcher.event_logs[job_id]) == []
    return people


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.server)], indirect=True)
def test_a_crowd_at_once_breaks_no_rule(database_url: str) -> None:
    people = crowd(database_url, workers=4, jobs=25, seconds=5, seed=1)
    assert people.done["succeeded"]
    assert people.refused["owner"]


@pytest.mark.long
@pytest.mark.longest
def test_a_large_crowd_breaks_no_rule_for_minutes(database_url: str) -> None:
    people = crowd(database_url, workers=8, jobs=1500, seconds=180, seed=int(time.time()))
    assert all(people.done[state.value] for state in TERMINAL)
    assert people.refused["worker"]
    assert people.refused["owner"]
