"""The real engine is disturbed in the middle of a job: another worker goes on from its checkpoint, to the same bits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from retort.client import JobInfo, Retort
from retort.engine.interrupt import FINISHED
from retort.recipe import Recipe
from service.checkpoints.models import CheckpointRow
from service.db import reading
from service.jobs.models import JobRow as Row
from service.jobs.models import State
from tests.faults.installation import Installation, Worker, fresh_folder, remove
from tests.faults.scenario import recipe
from tests.faults.test_gone import event_log, wait_for_end
from tests.faults.watch import Line
from tests.retort.engine.forks import Engine
from tests.servers import wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]

EPOCHS = 40
RECIPE = recipe("real", 1, EPOCHS)
PROMISED_SECONDS = 30.0
"""Within which a worker that is asked to stop has put its job back."""


@pytest.fixture(scope="module")
def house() -> Iterator[tuple[Installation, Retort]]:
    """Two workers, each with a storage of its own."""
    folder = fresh_folder("engine")
    installation = Installation(
        folder, pair="full", engine="real", apart=True, checkpoint_seconds=0.1, lease_seconds=5, grace_seconds=20
    )
    with installation.running(2):
        yield installation, installation.client("default")
    remove(folder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """What the recipe gives when nothing happens."""
    stored = Recipe.model_validate(RECIPE).model_dump(mode="json")
    engine = Engine(tmp_path_factory.mktemp("undisturbed") / "run", stored)
    assert engine.run() == FINISHED, (engine.directory / "stderr").read_text()
    return engine


def kill_worker(installation: Installation, worker: Worker) -> None:
    worker.process.kill()


def kill_engine(installation: Installation, worker: Worker) -> None:
    """The one that was started last is warm: it waits for the next job."""
    os.kill(min(worker.engines()), signal.SIGKILL)


def stop_worker(installation: Installation, worker: Worker) -> None:
    worker.ask_to_stop()


def claims(lines: list[Line]) -> list[Line]:
    return [line for line in lines if line.kind == "claimed"]


def records(events: list[Any]) -> dict[str | None, tuple[str, dict[str, float]]]:
    """What was said, by key, without the times and the machine that the report tells of."""
    return {event.key: (event.kind, event.values) for event in events}


def said(lines: list[Line]) -> dict[str | None, tuple[str, dict[str, float]]]:
    return {line.key: (line.kind, line.body["values"]) for line in lines if line.key is not None}


def epoch_reached(installation: Installation, job: JobInfo) -> int:
    lines = event_log(installation, job.id)
    return max((line.body["epoch"] or 0 for line in lines if line.body.get("phase") == "distilling"), default=0)


def state_of(installation: Installation, job: JobInfo) -> Row:
    with installation.here(), reading() as session:
        return session.get_one(Row, job.id)


@pytest.mark.parametrize(
    "disturb", [kill_worker, *(pytest.param(other, marks=pytest.mark.long) for other in (stop_worker, kill_engine))]
)
def test_another_worker_goes_on_to_the_same_bits(
    house: tuple[Installation, Retort], undisturbed: Engine, disturb: Callable[[Installation, Worker], None]
) -> None:
    installation, client = house
    job = client.jobs.create(RECIPE, idempotency_key=disturb.__name__)
    wait_until(lambda: epoch_reached(installation, job) >= 3, "it distils", 120)
    owner = next(w for w in installation.workers if f"-{w.process.pid}-" in state_of(installation, job).lease_owner)
    disturb(installation, owner)
    if disturb is stop_worker:
        began = time.monotonic()
        wait_until(lambda: state_of(installation, job).fence != 1 or _put_back(installation, job), "it is put back", 60)
        assert time.monotonic() - began < PROMISED_SECONDS
        assert owner.process.wait(30) == 0
    wait_for_end(client, job, 240)
    installation.mend()
    lines = event_log(installation, job.id)
    assert len(claims(lines)) >= 2
    assert {line.attempt for line in lines if line.body.get("phase") == "teaching"} == {1}, "it was taught again"
    first = min(
        line.body["epoch"] for line in lines if line.number > claims(lines)[1].number and line.kind == "metrics"
    )
    assert first > 3, "the second attempt began anew"
    assert said(lines) == records(undisturbed.events())
    assert digests(client, job, installation.folder) == undisturbed.digests()


def _put_back(installation: Installation, job: JobInfo) -> bool:
    """Whether it waits for another worker, with a checkpoint in the database."""
    with installation.here(), reading() as session:
        kept = session.scalars(select(CheckpointRow.file).where(CheckpointRow.job_id == job.id)).all()
    return state_of(installation, job).state is State.queued and bool(kept)


def test_what_was_said_while_the_database_was_away_is_not_lost(
    house: tuple[Installation, Retort], undisturbed: Engine
) -> None:
    """For longer than the lease: the checkpoints have got further by then than the event log."""
    installation, client = house
    assert installation.postgresql is not None
    job = client.jobs.create(RECIPE, idempotency_key="away")
    wait_until(lambda: epoch_reached(installation, job) >= 3, "it distils", 120)
    installation.postgresql.stop()
    time.sleep(7)
    installation.postgresql.start()
    wait_for_end(client, job, 240)
    lines = event_log(installation, job.id)
    assert len(claims(lines)) >= 2
    assert said(lines) == records(undisturbed.events())
    assert digests(client, job, installation.folder) == undisturbed.digests()


def digests(client: Retort, job: JobInfo, folder: Path) -> dict[str, str]:
    """sha256 of each file that the job made."""
    names = [artifact.name for artifact in client.jobs.artifacts(job.id)]
    return {
        name: sha256(client.jobs.download(job.id, name, folder / job.id).read_bytes()).hexdigest() for name in names
    }
