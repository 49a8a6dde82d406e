"""The worker as the program that people start: a real Celery process, on both brokers and both databases."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from retort.recipe import Recipe
from service.artifacts.repository import artifacts_of
from service.db import reading
from service.jobs.models import State
from service.wake_up import wake
from tests.conftest import free_port, wait_until
from tests.processes import kill_tree
from tests.service.rows import add_job, add_project
from tests.worker.plays import FILES, STAND_IN, add_play, alive, kinds, lines, row, wait_for_kind, wait_for_state
from worker.engine_process import ENGINE
from worker.sandbox import AS_ROOT

Environment = Callable[..., None]
HANG_SECONDS = 300
METRICS = ("event", {"network": "student", "step": 1, "values": {"loss": 0.5}})


class Worker:
    """A worker's process and its log."""

    def __init__(self, log: Path, engine: Sequence[str]) -> None:
        self.log = log
        program = f"from worker import app; app.agent.files = {FILES}; app.main({list(engine)!r})"
        with log.open("wb") as file:
            self.process = subprocess.Popen([sys.executable, "-c", program], stdout=file, stderr=file)

    def said(self, words: str) -> bool:
        return words in self.log.read_text()

    def wait_ready(self) -> None:
        wait_until(lambda: self.said("ready."), "the worker is ready")

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(HANG_SECONDS)


Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    workers: list[Worker] = []

    def one(engine: Sequence[str] = STAND_IN) -> Worker:
        workers.append(Worker(tmp_path / f"worker-{len(workers)}.log", engine))
        return workers[-1]

    yield one
    for worker in workers:
        kill_tree(worker.process)


@pytest.fixture(params=["embedded", pytest.param("full", marks=pytest.mark.server)])
def service(request: pytest.FixtureRequest, environment: Environment) -> Environment:
    """The two ways to run it: SQLite with files for messages, PostgreSQL with Redis."""
    database, broker = {"embedded": ("sqlite", "filesystem"), "full": ("postgresql", "redis")}[request.param]
    environment(
        database_url=request.getfixturevalue(f"{database}_database"),
        broker_url=request.getfixturevalue(f"{broker}_broker"),
        look_seconds=60,
        lease_seconds=30,
        grace_seconds=3,
    )
    return environment


def test_a_worker_is_woken_up_tells_its_log_and_metrics_and_ends_on_a_signal(
    service: Environment, start: Start
) -> None:
    port = free_port()
    service(metrics_port=port)
    worker = start()
    worker.wait_ready()
    time.sleep(0.5)  # it has looked for jobs by itself, which it does again in a minute
    job_id = add_play(add_project(), METRICS, ("ship", {"student.txt": "weights"}))
    started = time.monotonic()
    wake()
    wait_for_state(job_id, State.succeeded, 30)
    assert time.monotonic() - started < 30, "it was found by looking, not by the wake-up"
    scraped = httpx2.get(f"http://127.0.0.1:{port}/metrics").text
    assert {"retort_worker_claims", "process_resident_memory_bytes"} <= {
        family.name for family in text_string_to_metric_families(scraped)
    }
    assert worker.stop() == 0
    wait_until(lambda: worker.said("has stopped"), "it says so")
    lines = [json.loads(line) for line in worker.log.read_text().splitlines()]
    assert len({line["worker"] for line in lines}) == 1
    assert {"worker.agent", "celery.apps.worker"} <= {line["logger"] for line in lines}
    assert "celery.app.trace" not in {line["logger"] for line in lines}
    warned = [line["message"] for line in lines if line["level"] != "info" and line["logger"] != "py.warnings"]
    # Root is warned at every start.
    assert all(os.geteuid() == 0 and message.endswith(AS_ROOT) for message in warned), warned


def test_a_stopped_worker_puts_its_job_back_and_another_finishes_it(service: Environment, start: Start) -> None:
    job_id = add_play(add_project(), METRICS, ("sleep_once", 60), ("ship", {}))
    first = start()
    wait_for_kind(job_id, "metrics")
    started = time.monotonic()
    assert first.stop() == 0
    assert time.monotonic() - started < 25
    assert (row(job_id).state, row(job_id).attempt) == (State.queued, 0)
    start()
    assert wait_for_state(job_id, State.succeeded).attempt == 1


def test_a_killed_workers_engine_ends_and_another_worker_finishes_the_job(
    service: Environment, start: Start, tmp_path: Path
) -> None:
    service(look_seconds=0.5, lease_seconds=3)
    note = tmp_path / "note"
    job_id = add_play(add_project(), ("note", str(note)), METRICS, ("sleep_once", 60), ("ship", {}))
    first, second = start(), start()
    wait_for_kind(job_id, "metrics")
    owner, other = (first, second) if first.said("begins under fence 1") else (second, first)
    pid = json.loads(note.read_text())["pid"]
    owner.stop(signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the engine ends")
    assert wait_for_state(job_id, State.succeeded).fence == 2
    assert kinds(job_id) == ["claimed", "metrics", "requeued", "claimed", "succeeded"]
    assert other.said("begins under fence 2")


def test_jobs_are_found_while_the_broker_is_down(sqlite_database: str, environment: Environment, start: Start) -> None:
    broker = f"redis://:hidden-word@127.0.0.1:{free_port()}/0"
    environment(database_url=sqlite_database, broker_url=broker, look_seconds=0.2)
    worker = start()
    job_id = add_play(add_project(), ("ship", {}))
    wait_for_state(job_id, State.succeeded)
    wait_until(lambda: worker.said("Cannot connect"), "Celery says that the broker is away")
    assert not worker.said("hidden-word")
    assert worker.stop() == 0


def test_the_worker_is_one_thread_for_messages_and_no_torch() -> None:
    program = """
import sys
from worker.app import app
assert (app.conf.worker_pool, app.conf.worker_concurrency) == ("threads", 1)
assert app.conf.task_acks_late is False
assert not {"torch", "numpy"} & set(sys.modules), "the engine's libraries are imported"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def digits(epochs: int) -> dict[str, object]:
    recipe = {
        "dataset": {"name": "digits", "label_share": 0.2},
        "teacher": {"architecture": "resnet8", "teach": {"epochs": 1}},
        "student": {"architecture": "resnet8"},
        "methods": [{"name": "kd"}],
        "training": {"epochs": epochs},
        "exports": [{"name": "safetensors"}],
    }
    return Recipe.model_validate(recipe).model_dump(mode="json")


@pytest.mark.slow
@pytest.mark.parametrize(
    "service",
    [pytest.param("full", marks=pytest.mark.server), pytest.param("embedded", marks=pytest.mark.long)],
    indirect=True,
)
def test_a_real_job_runs_to_its_end(service: Environment, start: Start) -> None:
    service(lease_seconds=30, grace_seconds=20)
    start(ENGINE).wait_ready()
    job_id = add_job(add_project(), spec=digits(epochs=1))
    wake()
    job = wait_for_state(job_id, State.succeeded, HANG_SECONDS)
    assert job.latest["student"]["test.accuracy"] > 0.05
    with reading() as session:
        names = {artifact.name for artifact, _ in artifacts_of(session, job_id)}
    assert {"student.safetensors", "student.json", "teacher.safetensors", "report.json"} <= names


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.long
def test_a_real_job_survives_its_workers_death(
    postgresql_database: str, redis_broker: str, environment: Environment, start: Start
) -> None:
    environment(database_url=postgresql_database, broker_url=redis_broker, look_seconds=0.5, lease_seconds=5)
    environment(checkpoint_seconds=0.2)
    job_id = add_job(add_project(), spec=digits(epochs=40))
    first = start(ENGINE)
    wait_until(lambda: row(job_id).phase == "distilling", "it distils", HANG_SECONDS)
    first.stop(signal.SIGKILL)
    start(ENGINE)
    assert wait_for_state(job_id, State.succeeded, HANG_SECONDS).fence == 2
    said = [line for line in lines(job_id) if line.key]
    assert len({line.key for line in said}) == len(said)
    assert {line.attempt for line in said if line.body["phase"] == "teaching"} == {1}, "the teacher is taught once"
    with reading() as session:
        stored = {artifact.name for artifact, _ in artifacts_of(session, job_id)}
    assert stored == set(lines(job_id)[-1].body["data"]["artifacts"])
