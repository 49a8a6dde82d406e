"""Who owns a job: each is run once, an old fence is refused, and nothing is lost."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.orm import Session

from retort.event import Event, Progress
from service.artifacts.repository import artifacts_of
from service.blobs.repository import read_chunk, write_blob
from service.claims.repository import Claim, LostLease
from service.claims.service import (
    Directive,
    NewArtifact,
    Trouble,
    cancel,
    claim,
    fail,
    hand_back,
    record,
    renew,
    retry,
    succeed,
)
from service.db import reading, transaction
from service.jobs.event_log import Entry, append, change
from service.jobs.models import EventRow as Line
from service.jobs.models import JobRow, State, Wanted
from service.kinds import EFFECTS
from service.projects.models import ProjectRow
from service.workers import repository
from service.workers.repository import Machine
from tests.service.claims.conftest import Later
from tests.service.rows import RECIPE, add_job, add_project

pytestmark = pytest.mark.usefixtures("database")

LEASE_SECONDS = 30.0
CRASH = Trouble("machine", "exit_1", "it crashed")


def take(worker: str = "worker_a") -> Claim | None:
    with transaction() as session:
        return claim(session, worker, LEASE_SECONDS)


def must_take(worker: str = "worker_a") -> Claim:
    taken = take(worker)
    assert taken is not None
    return taken


def row(job_id: str) -> JobRow:
    with reading() as session:
        return session.get_one(JobRow, job_id)


def event_log(job_id: str) -> list[Line]:
    with reading() as session:
        return list(session.scalars(select(Line).where(Line.job_id == job_id).order_by(Line.number)))


def kinds(job_id: str) -> list[str]:
    return [line.kind for line in event_log(job_id)]


def change_row(job_id: str, **values: Any) -> None:
    with transaction() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(values))


def metrics(step: int, **values: float) -> Event:
    return Event(kind="metrics", phase="distilling", network="student", step=step, values=values)


def test_a_claim_takes_a_job_and_says_so() -> None:
    job_id = add_job(add_project())
    taken = must_take()
    job = row(job_id)
    assert (taken.job_id, taken.attempt, taken.fence, taken.spec) == (job_id, 1, 1, job.spec)
    assert (job.state, job.lease_owner, job.attempt, job.fence) == (State.running, "worker_a", 1, 1)
    assert job.started_at is not None
    assert job.lease_ends == pytest.approx(job.started_at + LEASE_SECONDS, abs=1)
    [line] = event_log(job_id)
    assert (line.kind, line.number) == ("claimed", 1)
    assert line.body["data"] == {"asker": "worker", "attempt": 1, "worker": "worker_a", "fence": 1}
    assert take("worker_b") is None


def test_many_workers_at_once_get_each_job_once() -> None:
    project_ids = [add_project(str(i)) for i in range(3)]
    jobs = {add_job(project_ids[i % 3]) for i in range(24)}
    together = threading.Barrier(8)

    def work(number: int) -> list[str]:
        together.wait()
        mine: list[str] = []
        while (taken := take(f"worker_{number}")) is not None:
            mine.append(taken.job_id)
        return mine

    with ThreadPoolExecutor(8) as pool:
        taken = [job_id for mine in pool.map(work, range(8)) for job_id in mine]
    # On PostgreSQL a worker may find every candidate locked by others and stop; whoever locked them took them.
    assert Counter(taken) == Counter(jobs)


def test_projects_take_turns_then_priority_then_age() -> None:
    mine, theirs = add_project("mine"), add_project("theirs")
    old = add_job(mine, age=30)
    urgent = add_job(mine, age=10, priority=5)
    new = add_job(mine, age=5)
    other = add_job(theirs, age=1)
    order = [must_take().job_id for _ in range(4)]
    first = [urgent, other] if order[0] == urgent else [other, urgent]
    assert order == [*first, old, new]


def test_a_job_in_its_pause_is_left_alone_until_then(later: Later) -> None:
    job_id = add_job(add_project())
    with transaction() as session:
        assert retry(session, must_take(), CRASH) is State.queued
    job = row(job_id)
    assert (job.state, job.lease_owner, job.lease_ends) == (State.queued, None, None)
    assert job.error == {"fault": "machine", "cause": "exit_1", "detail": "it crashed"}
    assert take() is None
    later(2.1)
    assert must_take().attempt == 2


def test_pauses_double_up_to_a_minute_and_the_last_attempt_fails(later: Later) -> None:
    job_id = add_job(add_project(), max_attempts=7)
    for _ in range(7):
        with transaction() as session:
            retry(session, must_take(), CRASH)
        later(60)
    pauses = [line.body["data"]["pause_seconds"] for line in event_log(job_id) if line.kind == "requeued"]
    assert pauses == [2, 4, 8, 16, 32, 60]
    job = row(job_id)
    assert (job.state, job.attempt) == (State.failed, 7)
    assert job.error == {"fault": "machine", "cause": "exit_1", "detail": "attempt 7 of 7: it crashed"}
    assert job.ended_at is not None


def test_an_expired_lease_is_claimed_and_the_old_fence_is_refused(later: Later) -> None:
    job_id = add_job(add_project())
    old = must_take("worker_a")
    assert take("worker_b") is None
    later(LEASE_SECONDS + 1)
    new = must_take("worker_b")
    assert (new.job_id, new.attempt, new.fence) == (job_id, 2, 2)
    assert kinds(job_id) == ["claimed", "requeued", "claimed"]
    lost = event_log(job_id)[1]
    assert lost.body["text"] == "worker worker_a was not heard from any more in attempt 1"
    assert lost.body["data"]["cause"] == "heartbeat_lost"
    assert (row(job_id).error or {})["cause"] == "heartbeat_lost"
    before = row(job_id)
    for refused in (
        lambda session: renew(session, old, LEASE_SECONDS),
        lambda session: record(session, old, [metrics(1, loss=1.0)], None, "distilling"),
        lambda session: succeed(session, old, [], EFFECTS),
        lambda session: fail(session, old, CRASH),
        lambda session: cancel(session, old),
        lambda session: retry(session, old, CRASH),
        lambda session: hand_back(session, old),
    ):
        with pytest.raises(LostLease, match="worker_a under fence 1"), transaction() as session:
            refused(session)
    after = row(job_id)
    assert kinds(job_id) == ["claimed", "requeued", "claimed"]
    assert (after.state, after.fence, after.lease_ends) == (before.state, before.fence, before.lease_ends)


def test_a_renewed_lease_is_not_claimed_by_others(later: Later) -> None:
    add_job(add_project())
    taken = must_take()
    for _ in range(3):
        later(LEASE_SECONDS - 1)
        with transaction() as session:
            assert renew(session, taken, LEASE_SECONDS) is Directive.run
        assert take("worker_b") is None


def test_a_late_renewal_still_counts_while_nobody_took_the_job(later: Later) -> None:
    add_job(add_project())
    taken = must_take()
    later(LEASE_SECONDS + 5)
    with transaction() as session:
        renew(session, taken, LEASE_SECONDS)
    assert take("worker_b") is None


def test_a_job_lost_too_often_fails_and_says_why(later: Later) -> None:
    job_id = add_job(add_project(), max_attempts=2)
    for _ in range(2):
        must_take()
        later(LEASE_SECONDS + 1)
    assert take() is None
    job = row(job_id)
    assert (job.state, job.lease_owner, job.lease_ends) == (State.failed, None, None)
    assert job.error == {
        "fault": "machine",
        "cause": "heartbeat_lost",
        "detail": "worker worker_a was not heard from any more in attempt 2",
    }
    assert kinds(job_id) == ["claimed", "requeued", "claimed", "failed"]


def test_a_cancelled_job_that_nobody_holds_is_ended_by_the_next_look(later: Later) -> None:
    project_id = add_project()
    queued = add_job(project_id, wanted=Wanted.cancel)
    lost = add_job(project_id)
    must_take()
    change_row(lost, wanted=Wanted.cancel)
    assert take() is None
    assert row(queued).state is State.cancelled
    assert row(lost).state is State.running
    later(LEASE_SECONDS + 1)
    assert take() is None
    assert (row(lost).state, row(lost).error) == (State.cancelled, None)
    assert kinds(lost) == ["claimed", "cancelled"]


def test_the_owners_wish_comes_back_with_every_write() -> None:
    job_id = add_job(add_project())
    taken = must_take()
    change_row(job_id, wanted=Wanted.cancel)
    with transaction() as session:
        assert renew(session, taken, LEASE_SECONDS) is Directive.cancel
        assert record(session, taken, [], Progress(phase="distilling"), "distilling") is Directive.cancel
        cancel(session, taken)
    job = row(job_id)
    assert (job.state, job.lease_owner) == (State.cancelled, None)
    assert job.ended_at is not None


@pytest.mark.parametrize("put_back", [hand_back, lambda session, taken: retry(session, taken, CRASH)])
def test_a_cancelled_job_is_not_put_back(put_back: Callable[..., State]) -> None:
    job_id = add_job(add_project())
    taken = must_take()
    change_row(job_id, wanted=Wanted.cancel)
    with transaction() as session:
        assert put_back(session, taken) is State.cancelled
    assert row(job_id).state is State.cancelled


def test_a_job_handed_back_is_queued_at_once_and_the_attempt_does_not_count() -> None:
    job_id = add_job(add_project(), max_attempts=1)
    with transaction() as session:
        assert hand_back(session, must_take()) is State.queued
    assert (row(job_id).state, row(job_id).attempt) == (State.queued, 0)
    again = must_take("worker_b")
    assert (again.attempt, again.fence) == (1, 2)
    assert kinds(job_id) == ["claimed", "requeued", "claimed"]


def test_what_the_engine_says_is_written_down() -> None:
    job_id = add_job(add_project(), spec={**RECIPE, "training": {"threads": "auto"}})
    taken = must_take()
    resolved = {**RECIPE, "training": {"threads": 2}}
    said = [
        Event(kind="resolved", phase="preparing", data=resolved),
        metrics(10, loss=2.0, accuracy=0.1),
        metrics(20, loss=1.0),
    ]
    progress = Progress(phase="distilling", network="student", epoch=1, epochs=3)
    with transaction() as session:
        record(session, taken, said, progress, "distilling")
    job = row(job_id)
    assert job.spec == resolved
    assert job.latest == {"student": {"loss": 1.0, "accuracy": 0.1}}
    assert job.phase == "distilling"
    assert job.progress == progress.model_dump(exclude={"line"})
    assert [(line.number, line.kind, line.key) for line in event_log(job_id)] == [
        (1, "claimed", None),
        (2, "resolved", "preparing//resolved/0"),
        (3, "metrics", "distilling/student/metrics/10"),
        (4, "metrics", "distilling/student/metrics/20"),
    ]
    assert event_log(job_id)[2].body == {
        "phase": "distilling",
        "network": "student",
        "epoch": None,
        "step": 10,
        "values": {"loss": 2.0, "accuracy": 0.1},
        "text": None,
        "data": None,
    }


def test_what_a_resumed_run_says_again_is_dropped(later: Later) -> None:
    job_id = add_job(add_project())
    with transaction() as session:
        record(session, must_take("worker_a"), [metrics(10, loss=2.0), metrics(20, loss=1.0)], None, "distilling")
    later(LEASE_SECONDS + 1)
    taken = must_take("worker_b")
    with transaction() as session:
        record(
            session, taken, [metrics(10, loss=2.0), metrics(20, loss=1.0), metrics(30, loss=0.5)], None, "distilling"
        )
    steps = [line.body["step"] for line in event_log(job_id) if line.kind == "metrics"]
    assert steps == [10, 20, 30]
    assert [line.number for line in event_log(job_id)] == list(range(1, 7))
    assert row(job_id).latest == {"student": {"loss": 0.5}}


def test_a_key_twice_in_one_batch_is_kept_once() -> None:
    job_id = add_job(add_project())
    with transaction() as session:
        new = append(
            session, job_id, 1, [Entry("metrics", {}, "a"), Entry("metrics", {}, "a"), Entry("phase", {}, "b")]
        )
    assert [entry.key for entry in new] == ["a", "b"]
    assert [line.number for line in event_log(job_id)] == [1, 2]


def test_numbers_have_no_gap_and_no_repeat_when_many_write_at_once() -> None:
    job_id = add_job(add_project())
    together = threading.Barrier(6)

    def write(worker: int) -> None:
        together.wait()
        for step in range(10):
            entries = [Entry("metrics", {}, f"metrics/{step}"), change("cancel_wanted", str(worker))]
            try:
                with transaction() as session:
                    append(session, job_id, 1, entries)
                    if step % 4 == 3:
                        raise ZeroDivisionError  # a transaction that is rolled back leaves no gap
            except ZeroDivisionError:
                pass

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    lines = event_log(job_id)
    assert [line.number for line in lines] == list(range(1, 6 * 8 + 8 + 1))
    assert sorted(line.key for line in lines if line.key) == sorted(f"metrics/{s}" for s in (0, 1, 2, 4, 5, 6, 8, 9))
    assert row(job_id).next_event == len(lines) + 1


def test_success_names_the_files_and_ends_the_job_in_one_transaction() -> None:
    job_id = add_job(add_project())
    change_row(job_id, error=None)
    taken = must_take()
    files = [
        NewArtifact(name, "student", "application/octet-stream", write_blob(io.BytesIO(content)))
        for name, content in (("a.onnx", b"same"), ("b.onnx", b"same"), ("c.json", b"other"))
    ]
    with transaction() as session:
        succeed(session, taken, files, EFFECTS)
    job = row(job_id)
    assert (job.state, job.error, job.lease_owner) == (State.succeeded, None, None)
    with reading() as session:
        found = [(artifact.name, read_chunk(blob.id, 0)) for artifact, blob in artifacts_of(session, job_id)]
    assert found == [("a.onnx", b"same"), ("b.onnx", b"same"), ("c.json", b"other")]
    assert event_log(job_id)[-1].kind == "succeeded"
    with pytest.raises(LostLease), transaction() as session:
        fail(session, taken, CRASH)


def test_workers_are_seen_counted_and_forgotten(later: Later) -> None:
    def alive() -> int:
        with reading() as session:
            return len(repository.alive(session, within_seconds=30))

    for worker_id in ("worker_a", "worker_b", "worker_b"):
        with transaction() as session:
            repository.see(session, worker_id, host="here", job_id=None, machine=Machine())
    assert alive() == 2
    later(20)
    with transaction() as session:
        repository.see(session, "worker_a", host="here", job_id="job_1", machine=Machine())
    later(20)
    assert alive() == 1
    with transaction() as session:
        repository.forget_silent(session, 30)
        repository.forget(session, "worker_a")
    assert alive() == 0


# The effects of a job's success


def test_the_effect_of_a_kind_is_written_with_the_end_or_not_at_all() -> None:
    seen: list[dict[str, str]] = []

    def note(session: Session, claim: Claim, blobs: Mapping[str, str]) -> None:
        seen.append(dict(blobs))
        session.execute(update(ProjectRow).where(ProjectRow.id == claim.project_id).values(name="changed"))
        if len(seen) == 1:
            raise RuntimeError("broken")

    effects = {"greet": note}
    project_id = add_project()
    job_id = add_job(project_id, kind="greet")
    taken = must_take()
    files = [NewArtifact("a.txt", None, "text/plain", write_blob(io.BytesIO(b"abc")))]
    with pytest.raises(RuntimeError, match="broken"), transaction() as session:
        succeed(session, taken, files, effects)
    assert row(job_id).state is State.running
    with transaction() as session:
        assert session.get_one(ProjectRow, project_id).name == "default"
        succeed(session, taken, files, effects)
    assert row(job_id).state is State.succeeded
    with reading() as session:
        assert session.get_one(ProjectRow, project_id).name == "changed"
        (artifact,) = artifacts_of(session, job_id)
    assert seen == [{"a.txt": artifact[1].id}] * 2


def test_other_kinds_change_nothing_beside_them() -> None:
    effects = {"greet": lambda *_: pytest.fail("it was called")}
    add_job(add_project())
    taken = must_take()
    with transaction() as session:
        assert succeed(session, taken, [], effects) is State.succeeded
