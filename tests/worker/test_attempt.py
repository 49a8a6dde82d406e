"""Every way in which an attempt ends, with a stand-in for the engine and real databases."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from service.artifacts.repository import artifacts_of
from service.blobs.repository import read_chunk
from service.claims import service
from service.db import database_now, reading, transaction
from service.jobs.models import JobRow, State, Wanted
from service.settings import get_settings
from service.workers.models import WorkerRow
from tests.conftest import wait_until
from tests.service.conftest import on_postgresql
from tests.service.rows import add_project
from tests.worker.plays import (
    add_play,
    alive,
    job_folder,
    kinds,
    lines,
    row,
    running_agent,
    wait_for_kind,
    wait_for_state,
)

Environment = Callable[..., None]
pytestmark = on_postgresql


@pytest.fixture(autouse=True)
def quick(database: str, environment: Environment) -> None:
    environment(database_url=database, look_seconds=0.2, lease_seconds=30, grace_seconds=2)


@pytest.fixture
def project_id() -> str:
    return add_project()


def change_row(job_id: str, **values: object) -> None:
    with transaction() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(values))


def files(job_id: str) -> dict[str, str]:
    with reading() as session:
        return {a.name: read_chunk(b.id, 0).decode() if b.size else "" for a, b in artifacts_of(session, job_id)}


def error(job_id: str) -> dict[str, str]:
    return row(job_id).error or {}


METRICS = ("event", {"network": "student", "step": 1, "values": {"loss": 0.5}})


def test_a_job_runs_to_success_with_its_event_log_and_files(project_id: str) -> None:
    job_id = add_play(
        project_id,
        ("event", {"kind": "phase", "phase": "preparing"}),
        ("resolve", {"threads": 2}),
        METRICS,
        ("progress", {"network": "student", "epoch": 1, "epochs": 2}),
        ("ship", {"student.txt": "weights", "empty.txt": ""}),
        recipe={"threads": "auto"},
    )
    asked = row(job_id).spec
    with running_agent():
        job = wait_for_state(job_id, State.succeeded)
    assert kinds(job_id) == ["claimed", "phase", "resolved", "metrics", "succeeded"]
    assert files(job_id) == {"student.txt": "weights", "empty.txt": ""}
    assert job.latest == {"student": {"loss": 0.5}}
    assert job.spec == {**asked, "threads": 2}
    assert (job.phase, (job.progress or {})["epoch"]) == ("distilling", 1)
    assert (job.attempt, job.error, job.lease_owner) == (1, None, None)
    assert lines(job_id)[-1].body["data"]["artifacts"] == ["empty.txt", "student.txt"]
    wait_until(lambda: not job_folder(job_id).exists(), "the folder is removed")


def test_the_engine_gets_its_orders_and_no_secrets(
    project_id: str, tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    environment(data_roots='["/data"]', checkpoint_seconds=7)
    job_id = add_play(project_id, ("note", str(tmp_path / "orders.json")), ("ship", {}))
    with running_agent():
        wait_for_state(job_id, State.succeeded)
    orders = json.loads((tmp_path / "orders.json").read_text())
    paths = orders["paths"]
    assert orders["spec"] == json.loads(json.dumps(row(job_id).spec))
    assert orders["kind"] == "distill"
    assert paths["directory"] == str(job_folder(job_id) / "attempt-1")
    assert paths["checkpoints"] == str(job_folder(job_id) / "checkpoints")
    assert paths["weights"].startswith(paths["directory"])
    assert paths["teacher_cache"]["path"].endswith(f"/teacher_outputs/{project_id}")
    assert (paths["data_roots"], paths["checkpoint_seconds"], paths["run"]) == (["/data"], 7.0, "1")
    assert orders["env"]["OMP_NUM_THREADS"] == "2"
    assert not [name for name in orders["env"] if name.startswith("RETORT_") or "SECRET" in name]


def test_events_are_written_soon_though_the_engine_goes_on(project_id: str) -> None:
    job_id = add_play(project_id, METRICS, ("progress", {"epoch": 1}), ("sleep", 30))
    with running_agent():
        wait_for_kind(job_id, "claimed")
        started = time.monotonic()
        wait_for_kind(job_id, "metrics")
        assert time.monotonic() - started < 10
        wait_until(lambda: row(job_id).progress, "progress")
        assert row(job_id).state is State.running


def test_a_job_whose_student_learned_nothing_fails_with_its_files(project_id: str) -> None:
    refusal = ("event", {"kind": "failed", "phase": "exporting", "text": "student is no better than chance"})
    job_id = add_play(project_id, ("ship", {"good.txt": "weights"}), refusal, ("exit", 77))
    with running_agent():
        job = wait_for_state(job_id, State.failed)
    assert error(job_id) == {
        "fault": "spec",
        "cause": "students_failed",
        "detail": "student is no better than chance",
    }
    assert (job.attempt, files(job_id)) == (1, {"good.txt": "weights"})
    assert kinds(job_id) == ["claimed", "failed"]
    assert lines(job_id)[-1].body["data"]["artifacts"] == ["good.txt"]


def test_progress_is_that_of_the_phase_and_after_the_end_has_no_time_left(project_id: str) -> None:
    running = {"network": "student", "epoch": 2, "epochs": 6, "examples_per_second": 10.0, "seconds_left": 40.0}
    stopped = add_play(project_id, ("progress", running), ("exit", 2))
    exported = add_play(
        project_id, ("progress", running), ("event", {"kind": "phase", "phase": "exporting"}), ("ship", {})
    )
    with running_agent():
        failed, succeeded = wait_for_state(stopped, State.failed), wait_for_state(exported, State.succeeded)
    at_rest = running | {"examples_per_second": None, "seconds_left": None}
    assert {name: value for name, value in (failed.progress or {}).items() if name in running} == at_rest
    assert (failed.phase, succeeded.phase) == ("distilling", "exporting")
    assert {name for name, value in (succeeded.progress or {}).items() if value is not None} == {"phase"}
    assert (succeeded.progress or {})["phase"] == "exporting"


def test_an_impossible_recipe_fails_with_the_engines_sentence(project_id: str) -> None:
    refusal = ("event", {"kind": "failed", "text": "the student has no stages"})
    job_id = add_play(project_id, refusal, ("words", "the student has no stages"), ("exit", 2))
    with running_agent():
        job = wait_for_state(job_id, State.failed)
    assert error(job_id) == {"fault": "spec", "cause": "impossible", "detail": "the student has no stages"}
    assert job.attempt == 1
    assert kinds(job_id) == ["claimed", "failed"]


def test_a_reason_names_no_folder_of_the_machine(project_id: str) -> None:
    text = f"the disk is full: 12 bytes are free in {get_settings().storage}/jobs, without what did not fit"
    job_id = add_play(project_id, ("event", {"kind": "failed", "text": text}), ("exit", 74), max_attempts=1)
    with running_agent():
        wait_for_state(job_id, State.failed)
    reason = "the disk is full: 12 bytes are free in .../jobs, without what did not fit"
    assert error(job_id)["detail"] == f"attempt 1 of 1: {reason}"


def test_a_checkpoint_larger_than_the_project_may_store_is_not_copied(
    project_id: str, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    environment(max_stored_bytes=3)
    job_id = add_play(project_id, ("checkpoint", "four"), ("sleep", 1), ("ship", {}))
    with running_agent():
        wait_for_state(job_id, State.succeeded)
    assert "is not copied: the file has more than 3 bytes" in caplog.text


def test_out_of_memory_on_the_device_fails_at_once(project_id: str) -> None:
    job_id = add_play(project_id, ("words", "a batch of 64 does not fit"), ("exit", 71))
    with running_agent():
        wait_for_state(job_id, State.failed)
    assert error(job_id) == {"fault": "spec", "cause": "out_of_memory", "detail": "a batch of 64 does not fit"}


def test_a_file_that_keeps_a_library_busy_is_its_users_fault(project_id: str) -> None:
    job_id = add_play(project_id, ("die", signal.SIGALRM))
    with running_agent():
        job = wait_for_state(job_id, State.failed)
    assert (job.attempt, error(job_id)["fault"]) == (1, "spec")
    assert error(job_id)["detail"].startswith("a file kept one call of a library busy beyond its bound of time")


def test_a_crash_is_tried_again_and_its_trace_stands_in_the_log_alone(
    project_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    words = "Traceback:\n  File /srv/retort/engine.py\nno such kernel"
    job_id = add_play(project_id, ("words", words), ("fail_once", 1), ("ship", {}))
    with running_agent():
        wait_for_kind(job_id, "requeued")
        assert (error(job_id)["fault"], error(job_id)["cause"]) == ("service", "exit_1")
        shown = r"the engine crashed with exit code 1; the worker's log has the details under (fault_[0-9a-f]{12})"
        found = re.fullmatch(shown, error(job_id)["detail"])
        assert found
        assert any(found[1] in line.message and words in line.message for line in caplog.records)
        assert row(job_id).not_before > 0
        wait_for_state(job_id, State.succeeded)
    assert kinds(job_id) == ["claimed", "requeued", "claimed", "succeeded"]
    assert row(job_id).error is None


@pytest.mark.parametrize(
    ("play", "cause", "words"),
    [
        (("die", signal.SIGKILL), "SIGKILL", "the engine was ended by SIGKILL, which is what the system sends"),
        (("die", signal.SIGSEGV), "SIGSEGV", "the engine was ended by SIGSEGV"),
        (("die", signal.SIGRTMIN + 1), "SIG35", "the engine was ended by SIG35"),
        (("exit", 75), "stopped", "the engine stopped without having been asked to"),
        (("exit", 0), "broken_result", "the engine left no valid result: "),
    ],
)
def test_the_last_attempts_end_is_the_jobs(project_id: str, play: tuple[str, int], cause: str, words: str) -> None:
    job_id = add_play(project_id, play, max_attempts=1)
    with running_agent():
        wait_for_state(job_id, State.failed)
    assert (error(job_id)["fault"], error(job_id)["cause"]) == ("machine", cause)
    assert error(job_id)["detail"].startswith(f"attempt 1 of 1: {words}")


ARTIFACTS: dict[str, list[dict[str, Any]]] = {
    "lies outside its directory": [{"file": "../../secret.txt"}],
    "which lies outside": [{"file": "/etc/hostname"}],
    "through a link": [{"file": "folder/hostname"}],
    "the file 'link' lies outside": [{"file": "link"}],
    "twice has further names": [{"file": "twice"}],
    "/0/name": [{"name": "../x"}],
    "wrong at /0/name": [{"name": "..."}],
    "wrong at /1/name": [{}, {"name": "a\nb"}],
    "/0/media_type": [{"media_type": "text/html\r\nSet-Cookie: a=b"}],
    "at /0/media_type": [{"media_type": "x" * 100_000 + "/y"}],
    "/0/network": [{"network": "\x1b]0;x\x07"}],
    "NUL": [{"file": "fi\0le"}],
    "have one name": [{}, {}],
    "at most 2000": [{}] * 2001,
    "the project may store 1,000": [{"file": "large"}],
}
"""Lists of artifacts that no engine leaves, by words of the objection."""


def test_artifacts_that_no_engine_leaves_are_the_jobs_fault(project_id: str, environment: Environment) -> None:
    environment(max_stored_bytes=1000)
    plays = {words: ("leave", {"files": listed, "large": 10_000}) for words, listed in ARTIFACTS.items()}
    jobs = {words: add_play(project_id, play) for words, play in plays.items()}
    with running_agent():
        for words, job_id in jobs.items():
            wait_for_state(job_id, State.failed)
            found = error(job_id)
            assert (found["fault"], found["cause"], row(job_id).attempt) == ("spec", "broken_result", 1), words
            assert words in found["detail"]
            assert len(found["detail"]) < 1200
            assert found["detail"].isprintable()
            assert files(job_id) == {}


def record(**fields: Any) -> tuple[str, str]:
    """A step that writes a record."""
    return "say", json.dumps({"line": "event", "kind": "metrics", "phase": "p", "network": "student", **fields}) + "\n"


RECORDS: list[tuple[str, Any]] = [
    ("resolve", {"deadline": None}),
    ("resolve", {"students": [{"name": "student", "weights": {"job": "../..", "network": "x"}}]}),
    ("event", {"kind": "resolved", "data": {}}),
    record(network="../../student"),
    record(network="of_another_job"),
    record(phase="x" * 101),
    record(phase="a\0b"),
    record(text="half \ud800"),
    record(text="x" * 10_001),
    record(step=2**64),
    record(step=-1),
    record(step=10**400),
    record(values={"loss": "not a number"}),
    record(data={"deep": {"a": "\0"}}),
    record(data={"whole": 2**63}),
    record(values={f"m{i}": i for i in range(1001)}),
    ("say", '{"line": "event", "kind": "metrics", "phase": "p", "values": {"loss": NaN}}\n'),
    ("say", '{"line": "event", "kind": "report", "phase": "p", "data": {"loss": 1e400}}\n'),
    ("say", '{"line": "event", "kind": "report", "phase": "p", "data": {"a": ' + "[" * 5000 + "]" * 5000 + "}}\n"),
    ("say", '{"line": "event", "kind": "report", "phase": "p", "data": {"a": [' + "0," * 2_000_001 + "0]}}\n"),
    ("say", '{"line": "progress", "phase": "p", "step": 1e99}\n'),
    ("say", '{"line": "progress", "phase": "p", "network": "student, nobody"}\n'),
    ("say", '{"line": "checkpoint", "phase": "p", "file": "x", "step": 99999999999}\n'),
    ("say", '{"line": "event", "kind": "failed", "phase": "p", "text": "a\\u0000b"}\n'),
]
"""Steps that say what no job can."""


def test_records_that_no_job_can_have_end_it_once_and_for_all(project_id: str) -> None:
    jobs = [add_play(project_id, step, ("deaf", 60)) for step in RECORDS]
    with running_agent():
        for step, job_id in zip(RECORDS, jobs, strict=True):
            wait_for_state(job_id, State.failed)
            found = error(job_id)
            assert (found["fault"], found["cause"], row(job_id).attempt) == ("spec", "invalid_record", 1), (step, found)
            assert len(found["detail"]) < 1200
            assert found["detail"].isprintable()
            assert kinds(job_id) == ["claimed", "failed"]
            assert row(job_id).latest == {}


def test_an_engine_that_reports_without_end_fills_neither_memory_nor_database(
    project_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.event_buffer.MOST_BYTES", 1_000_000)
    job_id = add_play(project_id, ("flood", None))
    with running_agent():
        wait_for_state(job_id, State.failed)
    assert error(job_id)["detail"] == "the engine reported more than 1,000,000 bytes of events in one attempt"
    assert row(job_id).next_event < 20_000


def test_what_is_not_in_the_protocol_is_our_own_fault(project_id: str, tmp_path: Path) -> None:
    job_id = add_play(project_id, ("note", str(tmp_path / "note")), ("say", "hello\n"), ("deaf", 60), max_attempts=1)
    with running_agent():
        wait_for_state(job_id, State.failed)
        pid = json.loads((tmp_path / "note").read_text())["pid"]
        wait_until(lambda: not alive(pid), "the engine is killed")
    assert (error(job_id)["fault"], error(job_id)["cause"]) == ("service", "ValidationError")


def test_a_running_job_is_cancelled_and_its_folder_removed(project_id: str) -> None:
    job_id = add_play(project_id, METRICS, ("sleep", 60))
    with running_agent():
        wait_for_kind(job_id, "metrics")
        change_row(job_id, wanted=Wanted.cancel)
        wait_for_state(job_id, State.cancelled)
        wait_until(lambda: not job_folder(job_id).exists(), "the folder is removed")
    assert kinds(job_id) == ["claimed", "metrics", "cancelled"]
    assert row(job_id).error is None


def test_an_engine_that_does_not_stop_is_killed_with_all_it_started(project_id: str, tmp_path: Path) -> None:
    job_id = add_play(project_id, ("litter", str(tmp_path / "pid")), METRICS, ("deaf", 60))
    with running_agent():
        wait_for_kind(job_id, "metrics")
        left = int((tmp_path / "pid").read_text())
        assert alive(left)
        started = time.monotonic()
        change_row(job_id, wanted=Wanted.cancel)
        wait_for_state(job_id, State.cancelled)
        assert time.monotonic() - started > 1.8
        wait_until(lambda: not alive(left), "what it started is killed")


def test_what_a_finished_engine_left_running_holds_nothing_up(project_id: str, tmp_path: Path) -> None:
    job_id = add_play(project_id, ("litter", str(tmp_path / "pid")), ("ship", {}))
    with running_agent():
        wait_for_state(job_id, State.succeeded)
        wait_until(lambda: not alive(int((tmp_path / "pid").read_text())), "what it started is killed")


def test_a_worker_that_stops_puts_its_job_back_at_once(project_id: str) -> None:
    job_id = add_play(project_id, METRICS, ("sleep_once", 60), ("ship", {}))
    with running_agent():
        wait_for_kind(job_id, "metrics")
    job = row(job_id)
    assert (job.state, job.attempt, job.lease_owner) == (State.queued, 0, None)
    assert list((job_folder(job_id) / "checkpoints").iterdir()) == [
        job_folder(job_id) / "checkpoints/0000-1.checkpoint"
    ]
    assert not (job_folder(job_id) / "attempt-1").exists()
    with running_agent():
        wait_for_state(job_id, State.succeeded)
    assert kinds(job_id) == ["claimed", "metrics", "requeued", "claimed", "succeeded"]


def test_a_worker_that_stops_does_not_wait_for_a_deaf_engine(project_id: str) -> None:
    job_id = add_play(project_id, METRICS, ("deaf", 60))
    with running_agent():
        wait_for_kind(job_id, "metrics")
        started = time.monotonic()
    assert time.monotonic() - started < 20
    assert (row(job_id).state, row(job_id).attempt) == (State.queued, 0)


def test_the_lease_is_renewed_while_the_engine_says_nothing(project_id: str, environment: Environment) -> None:
    environment(lease_seconds=4)
    job_id = add_play(project_id, ("deaf", 6), ("ship", {}))
    with running_agent():
        wait_for_kind(job_id, "claimed")
        while row(job_id).state is State.running:
            with transaction() as session:
                assert service.claim(session, "thief", 4) is None
            time.sleep(0.1)
    assert row(job_id).state is State.succeeded
    assert row(job_id).fence == 1


def test_a_lease_that_was_taken_ends_the_engine_and_all_writing(project_id: str, tmp_path: Path) -> None:
    job_id = add_play(project_id, ("note", str(tmp_path / "note")), METRICS, ("deaf", 60))
    with running_agent():
        wait_for_kind(job_id, "metrics")
        pid = json.loads((tmp_path / "note").read_text())["pid"]
        change_row(job_id, fence=2, lease_owner="thief", lease_ends=database_now() + 60)
        wait_until(lambda: not alive(pid), "the engine is killed")
    job = row(job_id)
    assert (job.state, job.lease_owner, job.fence) == (State.running, "thief", 2)
    assert kinds(job_id) == ["claimed", "metrics"]
    assert not (job_folder(job_id) / "attempt-1").exists()


def test_weights_of_an_earlier_job_are_put_there(project_id: str) -> None:
    first = add_play(project_id, ("ship", {"student.safetensors": "tensors", "student.json": "card"}))
    weights = {"job": first, "network": "student"}
    recipe = {"teacher": {"weights": weights}, "students": [{"name": "student", "weights": weights}]}
    with running_agent() as agent:
        wait_for_state(first, State.succeeded)
        second = add_play(project_id, ("ship_weights", None), recipe=recipe)
        agent.wake_up()
        wait_for_state(second, State.succeeded)
    assert files(second) == {f"{first}.student.safetensors": "tensors", f"{first}.student.json": "card"}


def test_weights_that_are_not_there_or_anothers_fail_the_job(project_id: str) -> None:
    theirs = add_play(add_project("other"), ("ship", {"student.safetensors": "tensors", "student.json": "card"}))
    recipe = {"teacher": {"weights": {"job": theirs, "network": "student"}}}
    with running_agent() as agent:
        wait_for_state(theirs, State.succeeded)
        mine = add_play(project_id, ("ship_weights", None), recipe=recipe)
        agent.wake_up()
        wait_for_state(mine, State.failed)
    detail = f"job {theirs} has no file student.safetensors; it may have been deleted"
    assert error(mine) == {"fault": "spec", "cause": "weights_missing", "detail": detail}


def test_a_worker_is_in_the_table_while_it_lives(project_id: str) -> None:
    def workers() -> list[WorkerRow]:
        with reading() as session:
            return list(session.scalars(select(WorkerRow)))

    job_id = add_play(project_id, METRICS, ("sleep", 30))
    with running_agent() as agent:
        wait_until(lambda: [w.job_id for w in workers()] == [job_id], "the worker is busy with it")
        assert workers()[0].id == agent.worker_id
    assert workers() == []


def test_two_workers_share_the_jobs(project_id: str) -> None:
    jobs = [add_play(project_id, ("deaf", 0.2), ("ship", {})) for _ in range(4)]
    with running_agent(), running_agent():
        for job_id in jobs:
            wait_for_state(job_id, State.succeeded)
    owners = {lines(job_id)[0].body["data"]["worker"] for job_id in jobs}
    assert [row(job_id).fence for job_id in jobs] == [1, 1, 1, 1]
    assert len(owners) == 2


def test_a_checkpoint_that_is_none_of_its_own_is_left_where_it_is(
    database: str, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    environment(database_url=database)
    said = {"line": "checkpoint", "file": "../../../secret", "phase": "distilling", "step": 1}
    job_id = add_play(add_project(), ("say", json.dumps(said) + "\n"), ("sleep", 0.5), ("ship", {}))
    with running_agent():
        wait_for_state(job_id, State.succeeded)
    assert "'../../../secret' is not the name of a file in the checkpoints' folder" in caplog.text
