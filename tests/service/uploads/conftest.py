"""Files to bring, and their parts."""

from __future__ import annotations

import hashlib
import random
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from service.blobs.models import CHUNK_BYTES, BlobRow, ChunkRow
from service.blobs.repository import read_chunk
from service.db import reading

MIB = CHUNK_BYTES
CONTENT = random.Random(7).randbytes(5 * MIB + 321)
"""In parts of 2 MiB three, the last of 1 MiB and 321 bytes."""

Answer = Any


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest(content: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{b64encode(hashlib.sha256(content).digest()).decode()}:"}


def wish(content: bytes = CONTENT, **fields: Any) -> dict[str, Any]:
    asked = {"kind": "dataset", "name": "flowers.tar", "size": len(content), "sha256": sha256(content)}
    return {**asked, "part_bytes": 2 * MIB, **fields}


def begin(client: TestClient, content: bytes = CONTENT, **fields: Any) -> dict[str, Any]:
    answer = client.post("/v1/uploads", json=wish(content, **fields))
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def part(upload: dict[str, Any], number: int, content: bytes = CONTENT) -> bytes:
    first = (number - 1) * upload["part_bytes"]
    return content[first : first + upload["part_bytes"]]


def put(client: TestClient, upload: dict[str, Any], number: int, content: bytes = CONTENT) -> Answer:
    sent = part(upload, number, content)
    return client.put(f"/v1/uploads/{upload['id']}/parts/{number}", content=sent, headers=digest(sent))


def complete(client: TestClient, upload: dict[str, Any]) -> Answer:
    return client.post(f"/v1/uploads/{upload['id']}/complete")


@pytest.fixture
def bring(client: TestClient) -> Callable[..., dict[str, Any]]:
    """Brings a whole file; the complete upload."""

    def run(content: bytes = CONTENT, by: TestClient = client, **fields: Any) -> dict[str, Any]:
        upload = begin(by, content, **fields)
        for number in range(1, upload["parts"] + 1):
            assert put(by, upload, number, content).status_code == 200
        answer = complete(by, upload)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    return run


def count(table: type) -> int:
    with reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def chunks(blob_id: str) -> int:
    with reading() as session:
        return session.scalar(select(func.count()).select_from(ChunkRow).where(ChunkRow.blob_id == blob_id)) or 0


def stored(sha256: str) -> bytes:
    """The bytes that were stored under that digest."""
    with reading() as session:
        blob = session.scalars(select(BlobRow).where(BlobRow.sha256 == sha256)).one()
    return b"".join(read_chunk(blob.id, number) for number in range(-(-(blob.size or 0) // MIB)))
