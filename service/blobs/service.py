"""Reading blobs, a chunk at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.blobs.models import CHUNK_BYTES, ChunkRow
from service.blobs.repository import read_chunk
from service.db import AS_BYTES


def read_bytes(blob_id: str, wanted: range) -> Iterator[bytes]:
    """Those bytes of a blob, a chunk at a time: between chunks no connection is held and none is in memory."""
    for number in range(wanted.start // CHUNK_BYTES, -(-wanted.stop // CHUNK_BYTES)):
        begin = number * CHUNK_BYTES
        chunk = read_chunk(blob_id, number)
        yield chunk[max(0, wanted.start - begin) : wanted.stop - begin]


def read_json(session: Session, blob_id: str) -> Any:
    """The value of a small JSON file, read in the caller's transaction."""
    chunks = select(ChunkRow.content).where(ChunkRow.blob_id == blob_id).order_by(ChunkRow.number)
    return json.loads(b"".join(session.scalars(chunks, execution_options=AS_BYTES)))
