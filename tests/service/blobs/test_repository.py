"""Blobs: what goes in comes out, equal bytes are kept once, and only what nothing refers to is swept."""

from __future__ import annotations

import hashlib
import io
import random
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from sqlalchemy import delete, event, func, select
from sqlalchemy.orm import Session

from service.artifacts.models import ArtifactRow
from service.artifacts.repository import add_artifact, artifacts_of, find_artifact
from service.blobs.models import CHUNK_BYTES, BlobRow, ChunkRow
from service.blobs.repository import BlobGone, commit_blob, read_chunk, sweep, write_blob
from service.db import get_engine, reading, transaction
from tests.service.rows import add_job, add_project

pytestmark = pytest.mark.usefixtures("database")


def some_bytes(count: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(count)


def put(content: bytes) -> str:
    written = write_blob(io.BytesIO(content))
    with transaction() as session:
        return commit_blob(session, written)


def get(blob_id: str, size: int) -> bytes:
    return b"".join(read_chunk(blob_id, number) for number in range(-(-size // CHUNK_BYTES)))


def count(table: type) -> int:
    with reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5_000_000])
def test_bytes_come_back_as_they_went_in(size: int) -> None:
    content = some_bytes(size)
    blob_id = put(content)
    assert get(blob_id, size) == content
    with reading() as session:
        blob = session.get_one(BlobRow, blob_id)
    assert (blob.sha256, blob.size) == (hashlib.sha256(content).hexdigest(), size)


def test_a_chunk_beyond_the_end_is_gone() -> None:
    blob_id = put(b"abc")
    with pytest.raises(BlobGone, match=f"chunk 1 of {blob_id}"):
        read_chunk(blob_id, 1)


def test_memory_does_not_grow_with_the_blob() -> None:
    class Zeros(io.RawIOBase):
        left = 24 * CHUNK_BYTES

        def read(self, size: int = -1) -> bytes:
            size = min(size, self.left)
            self.left -= size
            return bytes(size)

    put(b"warm up")
    tracemalloc.start()
    write_blob(Zeros())  # type: ignore[arg-type]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * CHUNK_BYTES


def test_equal_bytes_are_kept_once() -> None:
    content = some_bytes(2 * CHUNK_BYTES)
    assert put(content) == put(content) != put(content + b"more")
    assert (count(BlobRow), count(ChunkRow)) == (2, 5)


def test_a_commit_that_is_repeated_gives_the_same_blob() -> None:
    written = write_blob(io.BytesIO(b"abc"))
    for _ in range(2):
        with transaction() as session:
            assert commit_blob(session, written) == written.id
    assert get(written.id, 3) == b"abc"


def test_equal_bytes_committed_at_once_are_kept_once() -> None:
    written = [write_blob(io.BytesIO(b"abc")) for _ in range(4)]
    together = threading.Barrier(len(written))

    def commit(index: int) -> str:
        together.wait()
        with transaction() as session:
            return commit_blob(session, written[index])

    with ThreadPoolExecutor(len(written)) as pool:
        ids = set(pool.map(commit, range(len(written))))
    assert len(ids) == 1
    assert (count(BlobRow), count(ChunkRow)) == (1, 1)


def test_a_rolled_back_commit_leaves_no_name() -> None:
    written = write_blob(io.BytesIO(b"abc"))
    with Session(get_engine()) as session:
        commit_blob(session, written)
        session.rollback()
    with reading() as session:
        assert session.get_one(BlobRow, written.id).sha256 is None


def refer(session: Session, job_id: str, blob_id: str, name: str = "student.safetensors") -> None:
    add_artifact(session, job_id, name=name, network="student", media_type="application/octet-stream", blob_id=blob_id)


def test_sweep_takes_what_nothing_refers_to_and_what_was_never_finished() -> None:
    job_id = add_job(add_project())
    kept, dropped = put(b"kept"), put(b"dropped")
    half = write_blob(io.BytesIO(b"half"))
    with transaction() as session:
        refer(session, job_id, kept)
    assert sweep(grace_seconds=60) == 0
    assert sweep(grace_seconds=0) == 2
    assert get(kept, 4) == b"kept"
    for blob_id in (dropped, half.id):
        with pytest.raises(BlobGone):
            read_chunk(blob_id, 0)
    with pytest.raises(BlobGone, match="swept"), transaction() as session:
        commit_blob(session, half)


def test_many_blobs_are_swept_in_small_transactions() -> None:
    for number in range(40):
        put(str(number).encode())
    assert sweep(grace_seconds=0) == 40
    assert (count(BlobRow), count(ChunkRow)) == (0, 0)


def test_writing_slower_than_the_grace_is_refused() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            sweep(grace_seconds=0)
            return super().read(size)

    with pytest.raises(BlobGone, match="swept before it was committed"):
        write_blob(Slow(b"abc"))
    assert count(ChunkRow) == 0


def test_a_deleted_job_lets_go_of_its_files_but_not_of_those_of_others() -> None:
    project_id = add_project()
    mine, theirs = add_job(project_id), add_job(project_id)
    blob_id = put(b"shared")
    with transaction() as session:
        refer(session, mine, blob_id)
        refer(session, theirs, blob_id)
    for job_id, swept in ((mine, 0), (theirs, 1)):
        with transaction() as session:
            session.execute(delete(ArtifactRow).where(ArtifactRow.job_id == job_id))
        assert sweep(grace_seconds=0) == swept


@contextmanager
def after(statement: str, do: Callable[[], None]) -> Iterator[None]:
    """Do something once, right after the first statement of that beginning."""
    done: list[bool] = []

    def watch(
        connection: object, cursor: object, text: str, parameters: object, context: object, executemany: bool
    ) -> None:
        if text.startswith(statement) and not done:
            done.append(True)
            do()

    event.listen(get_engine(), "after_cursor_execute", watch)
    yield
    event.remove(get_engine(), "after_cursor_execute", watch)


def test_a_sweep_that_has_chosen_a_blob_never_takes_it_from_who_refers_to_it_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sweep came first, so the bytes are stored anew."""
    with monkeypatch.context() as past:
        past.setattr("service.db.clock_offset_seconds", -100)
        job_id, old = add_job(add_project()), put(b"abc")
    written = write_blob(io.BytesIO(b"abc"))
    referred: list[str] = []

    def commit() -> None:
        with transaction() as session:
            referred.append(commit_blob(session, written))
            refer(session, job_id, referred[0])

    writer = threading.Thread(target=commit)

    def start() -> None:
        writer.start()
        writer.join(0.3)

    with after("SELECT blobs.id", start):
        assert sweep(grace_seconds=50) == 1
    writer.join()
    assert get(referred[0], 3) == b"abc"
    assert referred[0] != old


def test_a_reference_being_made_keeps_the_blob_from_a_sweep() -> None:
    job_id, old = add_job(add_project()), put(b"abc")
    written = write_blob(io.BytesIO(b"abc"))
    swept: list[int] = []
    sweeper = threading.Thread(target=lambda: swept.append(sweep(grace_seconds=0)))
    with transaction() as session:
        assert commit_blob(session, written) == old
        sweeper.start()
        sweeper.join(0.3)
        refer(session, job_id, old)
    sweeper.join()
    assert get(old, 3) == b"abc"


def test_files_are_found_by_job_and_name_within_their_project() -> None:
    project_id, other = add_project(), add_project("other")
    job_id, blob_id = add_job(project_id), put(b"abc")
    with transaction() as session:
        refer(session, job_id, blob_id, "b.onnx")
        refer(session, job_id, blob_id, "a.onnx")
    with reading() as session:
        assert [artifact.name for artifact, _ in artifacts_of(session, job_id)] == ["a.onnx", "b.onnx"]
        found = find_artifact(session, project_id, job_id, "a.onnx")
        assert found is not None
        assert (found[0].name, found[1].size) == ("a.onnx", 3)
        assert find_artifact(session, other, job_id, "a.onnx") is None
        assert find_artifact(session, project_id, job_id, "c.onnx") is None
