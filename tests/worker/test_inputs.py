"""Inputs of jobs, fetched once from the database to a storage that several workers share."""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from service.blobs.models import BlobRow, ChunkRow
from service.blobs.repository import BlobGone, commit_blob, write_blob
from service.datasets.models import DatasetRow
from service.db import transaction
from service.jobs.models import JobRow, State, Wanted
from tests.conftest import wait_until
from tests.service.rows import RECIPE, add_project
from tests.worker.plays import add_play, job_folder, row, running_agent, wait_for_state
from worker import inputs
from worker.inputs import InputCache, InputMissing

Environment = Callable[..., None]


@pytest.fixture(autouse=True)
def quick(database: str, environment: Environment) -> None:
    environment(database_url=database, look_seconds=0.2, lease_seconds=30, grace_seconds=2)


@pytest.fixture
def project_id() -> str:
    return add_project()


def add_dataset(project_id: str, content: bytes) -> str:
    written = write_blob(io.BytesIO(content))
    dataset_id = f"dataset_{uuid4().hex}"
    with transaction() as session:
        blob_id = commit_blob(session, written)
        made = {"blob_id": blob_id, "digest": written.sha256, "size": written.size, "source": {}, "name": "flowers"}
        session.add(DatasetRow(id=dataset_id, project_id=project_id, created_at=0.0, **made))
    return dataset_id


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def never() -> None:
    """Goes on always."""


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The chunks that are read from the database."""
    seen: list[int] = []
    real = inputs.read_chunk

    def read(blob_id: str, number: int) -> bytes:
        seen.append(number)
        return real(blob_id, number)

    monkeypatch.setattr(inputs, "read_chunk", read)
    return seen


LARGE = os.urandom((2 << 20) + 5)


def test_a_file_is_fetched_once_and_each_has_it_under_its_digest(
    project_id: str, tmp_path: Path, reads: list[int]
) -> None:
    dataset_id = add_dataset(project_id, LARGE)
    cache = InputCache(tmp_path / "inputs", 10 << 20)
    for name in ("one", "two"):
        cache.put(project_id, dataset_id, tmp_path / name, never)
        assert (tmp_path / name / sha256(LARGE)).read_bytes() == LARGE
    assert reads == [0, 1, 2]


def test_a_kept_file_that_has_changed_is_fetched_again(project_id: str, tmp_path: Path, reads: list[int]) -> None:
    dataset_id = add_dataset(project_id, LARGE)
    cache = InputCache(tmp_path / "inputs", 10 << 20)
    cache.put(project_id, dataset_id, tmp_path / "one", never)
    kept = tmp_path / "inputs" / sha256(LARGE)
    kept.unlink()
    kept.write_bytes(b"?" + LARGE[1:])
    cache.put(project_id, dataset_id, tmp_path / "two", never)
    assert (tmp_path / "two" / sha256(LARGE)).read_bytes() == kept.read_bytes() == LARGE
    assert len(reads) == 6


def test_what_was_used_longest_ago_makes_room_and_is_taken_from_nobody(project_id: str, tmp_path: Path) -> None:
    contents = [bytes([i]) * 1000 for i in range(4)]
    ids = [add_dataset(project_id, content) for content in contents]
    cache = InputCache(tmp_path / "inputs", 3000)
    for i in (0, 1, 2):
        cache.put(project_id, ids[i], tmp_path / str(i), never)
        os.utime(tmp_path / "inputs" / sha256(contents[i]), (i + 1, i + 1))
    cache.put(project_id, ids[0], tmp_path / "again", never)  # so it was used last
    cache.put(project_id, ids[3], tmp_path / "3", never)
    kept = {file.name for file in (tmp_path / "inputs").iterdir()} - {"lock"}
    assert kept == {sha256(contents[i]) for i in (0, 2, 3)}
    assert (tmp_path / "1" / sha256(contents[1])).read_bytes() == contents[1]


def test_a_file_larger_than_the_cache_is_fetched_for_one_attempt(project_id: str, tmp_path: Path) -> None:
    dataset_id = add_dataset(project_id, LARGE)
    InputCache(tmp_path / "inputs", 1000).put(project_id, dataset_id, tmp_path / "one", never)
    assert (tmp_path / "one" / sha256(LARGE)).read_bytes() == LARGE
    assert list((tmp_path / "inputs").iterdir()) == []


def test_workers_at_once_fetch_it_once(project_id: str, tmp_path: Path, reads: list[int]) -> None:
    dataset_id = add_dataset(project_id, LARGE)
    caches = [InputCache(tmp_path / "inputs", 10 << 20) for _ in range(4)]
    start = threading.Barrier(4)

    def fetch(number: int) -> bytes:
        start.wait()
        caches[number].put(project_id, dataset_id, tmp_path / str(number), never)
        return (tmp_path / str(number) / sha256(LARGE)).read_bytes()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fetch, range(4))) == [LARGE] * 4
    assert reads == [0, 1, 2]


def test_what_a_killed_worker_left_half_fetched_is_dropped(project_id: str, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs/0.partial").write_bytes(b"half")
    InputCache(tmp_path / "inputs", 10 << 20).put(
        project_id, add_dataset(project_id, b"whole"), tmp_path / "one", never
    )
    assert {file.name for file in (tmp_path / "inputs").iterdir()} == {sha256(b"whole"), "lock"}


def test_bytes_that_are_not_what_was_stored_are_never_handed_on(project_id: str, tmp_path: Path) -> None:
    dataset_id = add_dataset(project_id, LARGE)
    with transaction() as session:
        session.execute(update(ChunkRow).where(ChunkRow.number == 1).values(content=bytes(1 << 20)))
    with pytest.raises(BlobGone, match="do not have the digest that was stored"):
        InputCache(tmp_path / "inputs", 10 << 20).put(project_id, dataset_id, tmp_path / "one", never)
    assert [file.name for file in (tmp_path / "inputs").iterdir()] == ["lock"]
    assert list((tmp_path / "one").iterdir()) == []


@pytest.mark.parametrize("stored_id", ["dataset_1", "upload_1", "planet_1"])
def test_what_is_not_there_is_told(project_id: str, tmp_path: Path, stored_id: str) -> None:
    with pytest.raises(InputMissing, match=f"{stored_id} is not there any more; it may have been deleted"):
        InputCache(tmp_path / "inputs", 1000).put(project_id, stored_id, tmp_path / "one", never)


def test_another_projects_is_not_there(project_id: str, tmp_path: Path) -> None:
    dataset_id = add_dataset(project_id, b"mine")
    with pytest.raises(InputMissing):
        InputCache(tmp_path / "inputs", 1000).put(add_project("other"), dataset_id, tmp_path / "one", never)


# In the life of a job


def stored(dataset_id: str) -> dict[str, object]:
    return {**RECIPE, "dataset": {"name": "stored", "dataset": dataset_id}}


def test_the_engine_finds_it_below_its_last_root(project_id: str, tmp_path: Path) -> None:
    dataset_id = add_dataset(project_id, b"archive")
    job_id = add_play(project_id, ("note", str(tmp_path / "order")), ("ship", {}), recipe=stored(dataset_id))
    with running_agent():
        wait_for_state(job_id, State.succeeded)
    order = json.loads((tmp_path / "order").read_text())
    assert order["paths"]["data_roots"] == [str(job_folder(job_id) / "attempt-1/inputs")]
    assert not job_folder(job_id).exists()


def test_a_job_whose_data_set_was_deleted_fails_and_says_so(project_id: str) -> None:
    dataset_id = add_dataset(project_id, b"archive")
    job_id = add_play(project_id, ("ship", {}), recipe=stored(dataset_id))
    with transaction() as session:
        session.execute(delete(DatasetRow))
    with running_agent():
        wait_for_state(job_id, State.failed)
    assert row(job_id).error == {
        "fault": "spec",
        "cause": "input_missing",
        "detail": f"{dataset_id} is not there any more; it may have been deleted",
    }


@pytest.mark.parametrize(
    ("wanted", "state"), [(Wanted.cancel, State.cancelled), (Wanted.pause, State.paused), (None, State.queued)]
)
def test_a_job_may_be_left_while_much_is_fetched(
    project_id: str, monkeypatch: pytest.MonkeyPatch, wanted: Wanted | None, state: State
) -> None:
    fetching = threading.Event()
    real = inputs.read_chunk

    def read(blob_id: str, number: int) -> bytes:
        fetching.set()
        time.sleep(0.2)
        return real(blob_id, 0)

    monkeypatch.setattr(inputs, "read_chunk", read)
    dataset_id = add_dataset(project_id, b"archive")
    with transaction() as session:  # as if it were of a terabyte
        enlarge(session, dataset_id)
    job_id = add_play(project_id, ("ship", {}), recipe=stored(dataset_id))
    with running_agent() as agent:
        assert fetching.wait(20)
        if wanted is None:
            agent.stop()
        else:
            with transaction() as session:
                session.execute(update(JobRow).where(JobRow.id == job_id).values(wanted=wanted))
        wait_until(lambda: row(job_id).state is state, f"the job becomes {state.value}")
    assert row(job_id).attempt == (1 if wanted is Wanted.cancel else 0)


def enlarge(session: Session, dataset_id: str) -> None:
    blob_id = session.get_one(DatasetRow, dataset_id).blob_id
    session.execute(update(BlobRow).where(BlobRow.id == blob_id).values(size=2**30))
