"""Artifacts over HTTP: lists, whole files, ranges, conditions, in constant memory."""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from sqlalchemy import delete
from starlette.testclient import TestClient

from service.artifacts.repository import add_artifact
from service.blobs.models import CHUNK_BYTES, BlobRow, ChunkRow
from service.blobs.repository import commit_blob, write_blob
from service.db import transaction
from tests.service.conftest import Server, on_sqlite

Start = Callable[..., Server]
CONTENT = random.Random(1).randbytes(2 * CHUNK_BYTES + 12_345)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ETAG = f'"{SHA256}"'


def store(job_id: str, name: str, content: io.BufferedIOBase, network: str | None = "student") -> str:
    written = write_blob(content)  # type: ignore[arg-type]
    with transaction() as session:
        blob_id = commit_blob(session, written)
        add_artifact(session, job_id, name=name, network=network, media_type="application/x-test", blob_id=blob_id)
    return blob_id


@pytest.fixture
def job_id(client: TestClient, recipe: dict[str, Any]) -> str:
    job_id = str(client.post("/v1/jobs", json=recipe).json()["id"])
    store(job_id, "student.safetensors", io.BytesIO(CONTENT))
    store(job_id, "report.json", io.BytesIO(b"{}"), None)
    store(job_id, "empty", io.BytesIO(b""))
    return job_id


@pytest.fixture
def address(job_id: str) -> str:
    return f"/v1/jobs/{job_id}/artifacts/student.safetensors"


def test_the_list_says_what_there_is(client: TestClient, job_id: str, address: str) -> None:
    page = client.get(f"/v1/jobs/{job_id}/artifacts").json()
    assert [item["name"] for item in page["items"]] == ["empty", "report.json", "student.safetensors"]
    assert page["next_cursor"] is None
    item = page["items"][2]
    assert item == {
        "name": "student.safetensors", "network": "student", "media_type": "application/x-test", "size": SIZE,
        "sha256": SHA256, "created_at": item["created_at"], "url": address,
    }  # fmt: skip


def test_a_whole_file(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["Content-Length"] == str(SIZE)
    assert answer.headers["ETag"] == ETAG
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Type"] == "application/x-test"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''student.safetensors"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@on_sqlite
def test_head_says_the_same_without_the_bytes(client: TestClient, address: str) -> None:
    whole, head = client.get(address), client.head(address)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Length", "ETag", "Accept-Ranges", "Content-Type", "Content-Disposition"):
        assert head.headers[name] == whole.headers[name]
    assert client.head(address, headers={"Range": "bytes=0-1"}).headers["Content-Length"] == str(SIZE)
    assert client.head(address + "x").status_code == 404


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, SIZE - 1),
        ("bytes=5-9", 5, 9),
        (f"bytes={CHUNK_BYTES - 1}-{CHUNK_BYTES}", CHUNK_BYTES - 1, CHUNK_BYTES),
        (f"bytes={CHUNK_BYTES}-{2 * CHUNK_BYTES - 1}", CHUNK_BYTES, 2 * CHUNK_BYTES - 1),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE - 1),
        (f"bytes=10-{SIZE + 1000}", 10, SIZE - 1),
        ("bytes=-7", SIZE - 7, SIZE - 1),
        (f"bytes=-{SIZE + 5}", 0, SIZE - 1),
    ],
)
@on_sqlite
def test_one_range(client: TestClient, address: str, asked: str, first: int, last: int) -> None:
    answer = client.get(address, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, CONTENT[first : last + 1])
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
    assert answer.headers["Content-Length"] == str(last - first + 1)
    assert answer.headers["ETag"] == ETAG


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=a-b", "lines=1-2", "bytes=0-1,5-6", "bytes=-", "bytes", ""])
@on_sqlite
def test_what_is_no_single_range_gives_the_whole_file(client: TestClient, address: str, asked: str) -> None:
    answer = client.get(address, headers={"Range": asked})
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE + 10}-{SIZE + 20}", "bytes=-0"])
@on_sqlite
def test_a_range_beyond_the_end(client: TestClient, address: str, asked: str) -> None:
    answer = client.get(address, headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"
    assert answer.json()["detail"] == f"the range '{asked}' begins beyond the file's end, at {SIZE:,} bytes"


@on_sqlite
def test_a_range_goes_on_only_with_the_same_file(client: TestClient, address: str) -> None:
    asked = {"Range": "bytes=10-19"}
    same = client.get(address, headers={**asked, "If-Range": ETAG})
    assert (same.status_code, same.content) == (206, CONTENT[10:20])
    for other in ('"other"', f"W/{ETAG}", "Tue, 01 Jan 2030 00:00:00 GMT"):
        answer = client.get(address, headers={**asked, "If-Range": other})
        assert (answer.status_code, len(answer.content)) == (200, SIZE)


@pytest.mark.parametrize("known", [ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"])
@on_sqlite
def test_who_has_the_file_gets_no_bytes(client: TestClient, address: str, known: str) -> None:
    for method in ("GET", "HEAD"):
        answer = client.request(method, address, headers={"If-None-Match": known})
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", ETAG)
    assert client.get(address, headers={"If-None-Match": '"other"'}).status_code == 200


def test_an_empty_file(client: TestClient, job_id: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}/artifacts/empty")
    assert (answer.status_code, answer.content, answer.headers["Content-Length"]) == (200, b"", "0")


@on_sqlite
def test_an_unknown_artifact_gets_the_nearest(client: TestClient, job_id: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}/artifacts/student.safetensor")
    assert (answer.status_code, answer.json()["detail"]) == (
        404,
        f"job {job_id} has no artifact 'student.safetensor'; did you mean 'student.safetensors'?",
    )


# A real process


class Repeated(io.RawIOBase):
    """A file of some size that lies nowhere."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, count: int = -1) -> bytes:
        count = min(self.left, count)
        self.left -= count
        return b"\x5a" * count


def test_a_large_file_costs_no_memory_and_a_slow_reader_no_connection(
    start: Start, key: str, client: TestClient, job_id: str
) -> None:
    size = 96 * CHUNK_BYTES
    store(job_id, "large", Repeated(size))  # type: ignore[arg-type]
    server = start()
    headers = {"Authorization": f"Bearer {key}"}
    address = f"{server.url}/v1/jobs/{job_id}/artifacts/large"
    httpx2.get(address, headers={**headers, "Range": f"bytes=0-{4 * CHUNK_BYTES}"})
    before = server.memory_mib()
    with httpx2.Client(headers=headers, timeout=60, limits=httpx2.Limits(max_connections=40)) as http:
        # Slow readers, more than the pool has connections: each has got the head and reads no further.
        slow = [http.send(http.build_request("GET", address), stream=True) for _ in range(20)]
        time.sleep(0.5)
        assert http.get(f"{server.url}/v1/jobs").status_code == 200
        received = 0
        with http.stream("GET", address) as answer:
            for piece in answer.iter_bytes():
                received += len(piece)
        assert received == size
        for each in slow:
            each.close()
    assert server.memory_mib("VmHWM") - before < 60 + 20 * 2


@on_sqlite
def test_a_file_that_goes_while_it_is_sent_breaks_off(start: Start, key: str, client: TestClient, job_id: str) -> None:
    blob_id = store(job_id, "large", Repeated(64 * CHUNK_BYTES))  # type: ignore[arg-type]
    server = start()
    address = f"{server.url}/v1/jobs/{job_id}/artifacts/large"
    with httpx2.stream("GET", address, headers={"Authorization": f"Bearer {key}"}, timeout=30) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        with transaction() as session:
            session.execute(delete(ChunkRow).where(ChunkRow.blob_id == blob_id))
        with pytest.raises(httpx2.RemoteProtocolError):
            list(pieces)
    with transaction() as session:
        assert session.get(BlobRow, blob_id) is not None
    assert httpx2.get(f"{server.url}/healthz").status_code == 200
