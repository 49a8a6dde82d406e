"""Jobs for the stand-in engine, and an agent that runs them in this process."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import select

from service.db import reading
from service.jobs.models import TERMINAL, EventRow, JobRow, State
from service.settings import get_settings
from tests.conftest import wait_until
from tests.service.rows import RECIPE, add_job
from worker.agent import Agent

FILES = {"read": (str(Path(__file__).parents[2]),), "write": (tempfile.gettempdir(),)}
"""Folders of the stand-ins, and of the notes that tests have them leave."""
STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))


def add_play(project_id: str, *play: tuple[str, Any], **values: Any) -> str:
    recipe = {**RECIPE, **values.pop("recipe", {}), "play": play}
    return add_job(project_id, spec=recipe, **values)


@contextmanager
def running_agent() -> Iterator[Agent]:
    agent = Agent(STAND_IN, FILES)
    agent.start()
    try:
        yield agent
    finally:
        agent.stop()
        assert agent.join(20), "the agent did not stop"


def row(job_id: str) -> JobRow:
    with reading() as session:
        return session.get_one(JobRow, job_id)


def lines(job_id: str) -> list[EventRow]:
    with reading() as session:
        return list(session.scalars(select(EventRow).where(EventRow.job_id == job_id).order_by(EventRow.number)))


def kinds(job_id: str) -> list[str]:
    return [line.kind for line in lines(job_id)]


def wait_for_state(job_id: str, state: State, seconds: float = 30) -> JobRow:
    wait_until(lambda: row(job_id).state in {state, *TERMINAL}, f"job becomes {state.value}", seconds)
    job = row(job_id)
    assert job.state is state, job.error
    return job


def wait_for_kind(job_id: str, kind: str, times: int = 1) -> None:
    wait_until(lambda: kinds(job_id).count(kind) >= times, f"event {kind}")


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def job_folder(job_id: str) -> Path:
    return get_settings().storage / "jobs" / job_id
