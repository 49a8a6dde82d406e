"""Reading blobs, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json
from sqlalchemy import select
from sqlalchemy.orm import Session

from retort.storable import unstorable
from service.blobs.models import CHUNK_BYTES, BlobRow, ChunkRow
from service.blobs.repository import read_chunk
from service.db import AS_BYTES

LARGEST_JSON = 64 * 2**20
"""Bytes of a file of JSON that is read whole. A report on 100,000 classes has a tenth."""


def read_bytes(blob_id: str, wanted: range) -> Iterator[bytes]:
    """Those bytes of a blob, a chunk at a time: between chunks no connection is held and none is in memory."""
    for number in range(wanted.start // CHUNK_BYTES, -(-wanted.stop // CHUNK_BYTES)):
        begin = number * CHUNK_BYTES
        chunk = read_chunk(blob_id, number)
        yield chunk[max(0, wanted.start - begin) : wanted.stop - begin]


def read_json(session: Session, blob_id: str) -> Any:
    """The value of a small JSON file, read in the caller's transaction. Raises ValueError where it is none, too large,
    or holds what cannot be stored: engines write such files."""
    size = session.scalar(select(BlobRow.size).where(BlobRow.id == blob_id)) or 0
    if size > LARGEST_JSON:
        raise ValueError(f"its file has {size:,} bytes; at most {LARGEST_JSON:,} are read")
    chunks = select(ChunkRow.content).where(ChunkRow.blob_id == blob_id).order_by(ChunkRow.number)
    value = from_json(b"".join(session.scalars(chunks, execution_options=AS_BYTES)), allow_inf_nan=False)
    for _, reason in unstorable(value):
        raise ValueError(reason)
    return value
