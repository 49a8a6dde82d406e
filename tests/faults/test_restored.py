"""The database goes back to an earlier time while workers live on: all jobs of that time end, and no worker of before
writes into them."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError

from retort.client import JobInfo, NotFoundError, Retort
from service.backup import make_backup, restore
from service.checkpoints.models import CheckpointRow
from service.db import reading
from service.jobs.models import JobRow as Row
from tests.faults import stand_in
from tests.faults.installation import PAIRS, Installation, Worker
from tests.faults.scenario import recipe
from tests.faults.test_gone import check_whole, steps_taken, wait_for_end
from tests.servers import wait_until

pytestmark = pytest.mark.server
STEPS = 100


@pytest.mark.parametrize("pair", [PAIRS[0], *(pytest.param(pair, marks=pytest.mark.long) for pair in PAIRS[1:])])
def test_all_jobs_of_a_backup_end_and_an_old_worker_is_refused(folder: Path, pair: str) -> None:
    installation = Installation(folder, pair=pair, apart=True, lease_seconds=60)
    with installation.running(workers=1):
        client = installation.client("default")
        ended = client.jobs.create(recipe("stand_in", 0, 3))
        wait_for_end(client, ended)
        running = client.jobs.create(recipe("stand_in", 1, STEPS))
        queued = [client.jobs.create(recipe("stand_in", seed, 4)) for seed in (2, 3)]
        wait_until(lambda: stored_steps(installation, running.id), "a checkpoint is in the database")
        engine = installation.engine_of_database()
        make_backup(engine, folder / "backup")

        made_later = client.jobs.create(recipe("stand_in", 4, 4))
        taken = len(steps_taken(installation, running.id))
        wait_until(lambda: len(steps_taken(installation, running.id)) > taken + 5, "the engine goes on")
        [old] = installation.workers
        suspend_between_transactions(old, engine)
        restore(engine, folder / "backup", replace=True)
        engine.dispose()
        with pytest.raises(NotFoundError):
            client.jobs.get(made_later.id)
        [step, *_] = stored_steps(installation, running.id)
        installation.start_worker(machine=1)
        wait_until(lambda: client.jobs.get(running.id).state == "running", "a fresh worker takes the job")
        wait_until(lambda: new_steps(installation, running), "it goes on")
        assert new_steps(installation, running)[0] == step + 1, "work that the backup holds was done again"
        old.wake()
        wait_until(lambda: installation.said("is not held by"), "the old worker is refused")

        for job, seed, steps in [(ended, 0, 3), (running, 1, STEPS), (queued[0], 2, 4), (queued[1], 3, 4)]:
            wait_for_end(client, job)
            check_whole(installation, job, seed, steps)
            assert shipped(client, job) == sha256(stand_in.weights(seed, steps)).hexdigest()
        with installation.here(), reading() as session:
            again = session.get_one(Row, running.id)
        assert again.attempt == 1, "an attempt was lost"
        assert installation.stop_workers() == [0, 0]


def suspend_between_transactions(worker: Worker, engine: Engine) -> None:
    """Stop a worker where it holds no lock of the database, for nobody would get past that."""
    while True:
        worker.suspend()
        try:
            with engine.begin() as connection:
                if connection.dialect.name == "sqlite":  # which has begun to write, or raised
                    return
                connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
                connection.exec_driver_sql("LOCK TABLE jobs, workers, checkpoints, chunks IN EXCLUSIVE MODE")
            return
        except OperationalError:
            worker.wake()


def stored_steps(installation: Installation, job_id: str) -> list[int]:
    """The steps of the job's checkpoints that the database has, the newest first."""
    found = select(CheckpointRow.step).where(CheckpointRow.job_id == job_id).order_by(CheckpointRow.created_at.desc())
    with installation.here(), reading() as session:
        return list(session.scalars(found))


def new_steps(installation: Installation, job: JobInfo) -> list[int]:
    """What engines have taken of a job under fences that a restore gave."""
    return [step for fence, step in steps_taken(installation, job.id) if fence > 1000]


def shipped(client: Retort, job: JobInfo) -> str:
    """The digest of the student's weights."""
    [digest] = [file.sha256 for file in client.jobs.artifacts(job.id) if file.name == "student.safetensors"]
    return digest
