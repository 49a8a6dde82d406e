"""Orders to a running job by its owner, its deadline or a stopping worker, and the checkpoints of other machines."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from service.access.caller import Caller
from service.artifacts.repository import artifacts_of
from service.blobs.models import BlobRow
from service.blobs.repository import read_chunk, sweep
from service.checkpoints.models import CheckpointRow
from service.db import reading, transaction
from service.jobs import service as jobs
from service.jobs.models import JobRow, State, Wanted
from service.settings import get_settings
from tests.conftest import wait_until
from tests.service.conftest import on_postgresql
from tests.service.rows import add_project
from tests.worker.plays import add_play, alive, job_folder, kinds, lines, row, running_agent, wait_for_state

Environment = Callable[..., None]
pytestmark = on_postgresql


@pytest.fixture(autouse=True)
def quick(database: str, environment: Environment) -> None:
    environment(database_url=database, look_seconds=0.2, lease_seconds=30, grace_seconds=3)


@pytest.fixture
def project_id() -> str:
    return add_project()


def change_wanted(job_id: str, wanted: Wanted) -> JobRow:
    with transaction() as session:
        return jobs.wish(session, Caller("key_1", row(job_id).project_id, False), job_id, wanted)


def stored(job_id: str) -> list[str]:
    with reading() as session:
        found = select(CheckpointRow.file).where(CheckpointRow.job_id == job_id).order_by(CheckpointRow.file)
        return list(session.scalars(found))


def files(job_id: str) -> dict[str, str]:
    with reading() as session:
        return {a.name: read_chunk(b.id, 0).decode() for a, b in artifacts_of(session, job_id)}


def blobs() -> int:
    with reading() as session:
        return session.scalars(select(func.count()).select_from(BlobRow)).one()


def test_a_paused_job_frees_its_worker_and_goes_on_from_its_checkpoint(project_id: str) -> None:
    job_id = add_play(project_id, ("train_once", 60), ("ship_checkpoint", None))
    with running_agent():
        wait_for_state(job_id, State.running)
        assert change_wanted(job_id, Wanted.pause).state is State.running
        paused = wait_for_state(job_id, State.paused)
        assert (paused.attempt, paused.lease_owner, paused.error, paused.ended_at) == (0, None, None, None)
        assert len(stored(job_id)) == 1
        other = add_play(project_id, ("ship", {}))
        wait_for_state(other, State.succeeded)
        assert row(job_id).state is State.paused
        change_wanted(job_id, Wanted.run)
        wait_for_state(job_id, State.succeeded)
    assert files(job_id)["student.txt"] == "stopped"
    assert kinds(job_id) == ["claimed", "pause_wanted", "paused", "resumed", "claimed", "succeeded"]
    assert stored(job_id) == []


def test_a_pause_that_is_taken_back_puts_the_job_back_or_changes_nothing(project_id: str) -> None:
    job_id = add_play(project_id, ("train_once", 60), ("ship_checkpoint", None))
    with running_agent():
        wait_for_state(job_id, State.running)
        change_wanted(job_id, Wanted.pause)
        change_wanted(job_id, Wanted.run)
        change_wanted(job_id, Wanted.pause)
        wait_for_state(job_id, State.paused)
        change_wanted(job_id, Wanted.run)
        wait_for_state(job_id, State.succeeded)


def test_a_stopped_job_keeps_what_it_has_and_succeeds(project_id: str) -> None:
    job_id = add_play(project_id, ("checkpoint", "best so far"), ("train", 60), ("ship_checkpoint", None))
    with running_agent():
        wait_for_state(job_id, State.running)
        assert change_wanted(job_id, Wanted.stop).state is State.running
        job = wait_for_state(job_id, State.succeeded)
    assert (job.wanted, files(job_id)) == (Wanted.stop, {"student.txt": "best so far", "finish.txt": "True"})
    assert kinds(job_id) == ["claimed", "stop_wanted", "succeeded"]
    assert change_wanted(job_id, Wanted.stop).state is State.succeeded


def test_a_paused_job_is_stopped_by_a_worker_that_only_wraps_up(project_id: str) -> None:
    job_id = add_play(project_id, ("train_once", 60), ("train", 60), ("ship_checkpoint", None))
    with running_agent():
        wait_for_state(job_id, State.running)
        change_wanted(job_id, Wanted.pause)
        wait_for_state(job_id, State.paused)
        assert change_wanted(job_id, Wanted.stop).state is State.queued
        wait_for_state(job_id, State.succeeded)
    assert files(job_id) == {"student.txt": "stopped", "finish.txt": "True"}
    assert kinds(job_id)[2:] == ["paused", "stop_wanted", "claimed", "succeeded"]


def test_a_job_stopped_before_there_is_anything_to_keep_is_cancelled_and_says_so(project_id: str) -> None:
    sentence = "no student was trained yet, so there is nothing to keep"
    job_id = add_play(project_id, ("train", 60), ("event", {"kind": "failed", "text": sentence}), ("exit", 73))
    with running_agent():
        wait_for_state(job_id, State.running)
        change_wanted(job_id, Wanted.stop)
        job = wait_for_state(job_id, State.cancelled)
    assert (job.error, lines(job_id)[-1].body["text"]) == (None, sentence)


def test_a_job_whose_engine_dies_while_it_is_to_pause_is_paused(project_id: str) -> None:
    job_id = add_play(project_id, ("deaf", 4), ("die", 9))  # by when the worker has read the order
    with running_agent():
        wait_for_state(job_id, State.running)
        change_wanted(job_id, Wanted.pause)
        job = wait_for_state(job_id, State.paused)
    assert (job.attempt, job.lease_owner, kinds(job_id)) == (0, None, ["claimed", "pause_wanted", "paused"])


def test_a_deadline_fails_the_job_or_stops_it_with_what_it_has(project_id: str) -> None:
    fails = {"deadline": {"seconds": 1.0, "then": "fail"}}
    stops = {"deadline": {"seconds": 1.0, "then": "stop"}}
    play = (("checkpoint", "best so far"), ("train", 60), ("ship_checkpoint", None))
    with running_agent():
        late = add_play(project_id, *play, recipe=fails)
        job = wait_for_state(late, State.failed)
        assert (job.error or {})["cause"] == "deadline"
        assert (job.error or {})["detail"] == "its 1 seconds of wall-clock time are over"
        assert job.deadline_at == pytest.approx((job.started_at or 0) + 1)
        kept = add_play(project_id, *play, recipe=stops)
        wait_for_state(kept, State.succeeded)
    assert files(kept)["student.txt"] == "best so far"
    assert kinds(kept) == ["claimed", "stop_wanted", "succeeded"]
    assert (stored(late), stored(kept)) == ([], [])


@pytest.mark.parametrize(
    ("code", "cause"), [(69, "unreachable"), (72, "memory_ran_out"), (74, "disk_full"), (76, "machine_failed")]
)
def test_what_the_machine_could_not_do_is_tried_again(project_id: str, code: int, cause: str) -> None:
    refusal = ("event", {"kind": "failed", "text": "it said why"})
    job_id = add_play(project_id, refusal, ("fail_once", code), ("ship", {}))
    with running_agent():
        wait_for_state(job_id, State.succeeded)
    [requeued] = [line.body for line in lines(job_id) if line.kind == "requeued"]
    assert (requeued["text"], requeued["data"]["fault"], requeued["data"]["cause"]) == ("it said why", "machine", cause)


def test_another_machine_goes_on_from_the_stored_checkpoint(
    project_id: str, environment: Environment, tmp_path: Path
) -> None:
    job_id = add_play(project_id, ("train_once", 60), ("ship_checkpoint", None))
    with running_agent():
        wait_for_state(job_id, State.running)
    assert row(job_id).state is State.queued
    assert len(stored(job_id)) == 1
    shutil.rmtree(get_settings().storage)
    environment(storage_url=f"file://{tmp_path}/another")
    with running_agent():
        wait_for_state(job_id, State.succeeded)
    assert files(job_id)["student.txt"] == "stopped"
    sweep(0)
    assert blobs() == len(files(job_id))


def test_two_checkpoints_are_kept_and_the_rest_is_given_back_at_once(
    project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.checkpoints.PAUSE", 0.0)
    texts = [("checkpoint", f"state {i}") for i in range(4)]
    play = [step for text in texts for step in (text, ("sleep", 0.5))]
    job_id = add_play(project_id, *play, ("sleep", 60))
    with running_agent():
        # One that is replaced before its turn comes is left out, on a busy machine.
        wait_until(lambda: stored(job_id)[-1][:4] == "0003", "the newest is stored")
        assert (len(stored(job_id)), blobs()) == (2, 2)
        change_wanted(job_id, Wanted.cancel)
        wait_for_state(job_id, State.cancelled)
        assert stored(job_id) == []
    sweep(0)  # what was half copied when the job ended
    assert blobs() == 0


@pytest.mark.parametrize("grace_seconds", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_stopping_worker_has_put_its_job_back_within_half_a_minute(
    project_id: str, environment: Environment, grace_seconds: int
) -> None:
    environment(grace_seconds=grace_seconds, lease_seconds=30)
    job_id = add_play(project_id, ("deaf", 300))
    with running_agent() as agent:
        wait_for_state(job_id, State.running)
        begun = time.monotonic()
        agent.stop()
        assert agent.join(30)
    assert time.monotonic() - begun < 30
    assert row(job_id).state is State.queued


def test_an_engine_that_is_paused_leaves_no_process_behind(project_id: str, tmp_path: Path) -> None:
    job_id = add_play(
        project_id, ("note", str(tmp_path / "engine")), ("litter", str(tmp_path / "litter")), ("train", 60)
    )
    with running_agent():
        wait_until(lambda: (tmp_path / "litter").exists() and (tmp_path / "litter").read_text(), "it runs")
        litter = int((tmp_path / "litter").read_text())
        assert alive(litter)
        change_wanted(job_id, Wanted.pause)
        wait_for_state(job_id, State.paused)
        wait_until(lambda: not alive(litter), "its process group is gone")


def test_a_worker_begins_nothing_that_its_disk_does_not_hold(project_id: str, environment: Environment) -> None:
    free = shutil.disk_usage(os.path.expanduser("~")).free
    large = add_play(project_id, ("ship", {}), needs_disk_bytes=10 * free)
    small = add_play(project_id, ("ship", {}))
    with running_agent():
        wait_for_state(small, State.succeeded)
        time.sleep(0.5)
        assert row(large).state is State.queued
        assert not job_folder(large).exists()
