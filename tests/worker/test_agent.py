"""The agent: it is woken up, survives failures around it, and sweeps."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable

import pytest

from service.blobs.models import BlobRow
from service.blobs.repository import write_blob
from service.db import reading
from service.jobs.models import State
from tests.conftest import wait_until
from tests.service.conftest import on_sqlite
from tests.service.rows import add_project
from tests.worker.plays import add_play, running_agent, wait_for_state
from worker.agent import Agent

Environment = Callable[..., None]


def test_it_looks_at_once_when_it_is_woken_up(database: str, environment: Environment) -> None:
    environment(database_url=database, look_seconds=60)
    with running_agent() as agent:
        time.sleep(0.5)
        job_id = add_play(add_project(), ("ship", {}))
        agent.wake_up()
        wait_for_state(job_id, State.succeeded)


def test_it_looks_by_itself_without_a_wake_up(database: str, environment: Environment) -> None:
    environment(database_url=database, look_seconds=0.5)
    with running_agent():
        time.sleep(0.3)
        job_id = add_play(add_project(), ("ship", {}))
        wait_for_state(job_id, State.succeeded)


def test_it_runs_all_waiting_jobs_before_it_waits_again(database: str, environment: Environment) -> None:
    environment(database_url=database, look_seconds=60)
    project_id = add_project()
    jobs = [add_play(project_id, ("ship", {})) for _ in range(3)]
    with running_agent():
        for job_id in jobs:
            wait_for_state(job_id, State.succeeded)


def test_a_warm_engine_that_has_died_is_replaced(database: str, environment: Environment) -> None:
    environment(database_url=database, look_seconds=0.2)
    with running_agent() as agent:
        wait_until(lambda: agent._warm is not None, "an engine is warm")
        assert agent._warm is not None
        agent._warm.kill()
        job_id = add_play(add_project(), ("ship", {}))
        assert wait_for_state(job_id, State.succeeded).attempt == 1


def test_an_engine_that_cannot_be_started_takes_no_jobs_and_stops_no_loop(
    database: str, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    environment(database_url=database, look_seconds=0.1)
    agent = Agent(["/nonexistent/engine"])
    job_id = add_play(add_project(), ("ship", {}))
    agent.start()
    wait_until(lambda: len(caplog.records) >= 3, "it says so and goes on")
    agent.stop()
    assert agent.join(5)
    assert "No such file or directory: '/nonexistent/engine'" in caplog.text
    assert wait_for_state(job_id, State.queued).attempt == 0


def test_a_database_that_is_not_migrated_is_waited_for(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    environment(look_seconds=0.1)
    with running_agent():
        wait_until(lambda: "the database is away: no such table" in caplog.text, "it says so")


def test_it_sweeps_what_nothing_refers_to(
    database: str, environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    environment(database_url=database, sweep_grace_seconds=0)
    written = write_blob(io.BytesIO(b"abc"))
    with caplog.at_level(logging.INFO, "worker.agent"), running_agent():
        wait_until(lambda: "swept 0 uploads, 0 old things, 1 blobs and 0 folders" in caplog.text, "it sweeps")
    with reading() as session:
        assert session.get(BlobRow, written.id) is None


@on_sqlite
def test_a_sweep_that_fails_holds_up_no_other(
    database: str, environment: Environment, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(database_url=database)
    caplog.set_level(logging.INFO)

    def broken() -> int:
        raise KeyError("deadline")

    monkeypatch.setattr("worker.agent.sweep_old", broken)
    with running_agent():
        wait_until(lambda: "swept 0 uploads, 0 old things, 0 blobs and 0 folders" in caplog.text, "it sweeps")
    assert "a sweep failed; the others go on" in caplog.text
