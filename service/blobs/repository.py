"""All SQL about blobs.

A blob is written under a private id, a chunk a transaction, and named by digest and size in the transaction that
refers to it. What nothing refers to is swept some time after it was last touched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO
from uuid import uuid4

from sqlalchemy import delete, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.blobs.models import CHUNK_BYTES, BlobRow, ChunkRow
from service.blobs.references import check_complete, is_referenced
from service.db import AS_BYTES, database_now, reading, release_pages, transaction

BLOBS_A_SWEEP, CHUNKS_A_SWEEP = 16, 16
"""Number of them that one transaction deletes: other writers wait meanwhile, and a blob may have thousands of
chunks."""


class BlobGone(LookupError):
    """A blob, or a part of it, is not there any more."""


@dataclass(frozen=True)
class BlobDraft:
    """A blob whose bytes are all there and that has no name yet."""

    id: str
    sha256: str
    size: int


def write_blob(file: BinaryIO, at_most: int | None = None) -> BlobDraft:
    """Copy a file into the database, a chunk at a time, each in a transaction of its own.

    Raises BlobGone when it was swept meanwhile, for it was written too slowly, and ValueError when it has more bytes
    than it may: somebody may go on writing to it.
    """
    digest, size = hashlib.sha256(), 0
    with transaction() as session:
        blob_id = begin_blob(session)
    for number, content in enumerate(iter(lambda: file.read(CHUNK_BYTES), b"")):
        digest.update(content)
        size += len(content)
        if at_most is not None and size > at_most:
            raise ValueError(f"the file has more than {at_most:,} bytes")
        write_chunk(blob_id, number, content)
    return BlobDraft(blob_id, digest.hexdigest(), size)


def begin_blob(session: Session, *, draft_of: str | None = None, draft_bytes: int | None = None) -> str:
    """A blob without bytes under a private id, which it gives. The bytes that it may get count against the limit of the
    project `draft_of` as long as it is on its way."""
    blob_id = f"blob_{uuid4().hex}"
    values = {"touched_at": database_now(), "draft_of": draft_of, "draft_bytes": draft_bytes}
    session.execute(insert(BlobRow).values(id=blob_id, **values))
    return blob_id


def write_chunk(blob_id: str, number: int, content: bytes) -> None:
    """Write one piece of a blob that has no name yet, in a transaction of its own. Raises BlobGone."""
    with transaction() as session:
        _touch(session, blob_id)
        session.execute(insert(ChunkRow).values(blob_id=blob_id, number=number, content=content))


def move_chunks(session: Session, from_id: str, to_id: str, numbers: range) -> None:
    """Put the pieces of those numbers, all that a blob without a name has, in the place of another's; the blob that
    gave them ends. Raises BlobGone."""
    for blob_id in (from_id, to_id):
        _touch(session, blob_id)
    replaced = (ChunkRow.blob_id == to_id, ChunkRow.number.between(numbers[0], numbers[-1]))
    session.execute(delete(ChunkRow).where(*replaced).execution_options(synchronize_session=False))
    moved = update(ChunkRow).where(ChunkRow.blob_id == from_id).values(blob_id=to_id)
    session.execute(moved.execution_options(synchronize_session=False))
    session.execute(delete(BlobRow).where(BlobRow.id == from_id))


def drop_private(blob_id: str) -> None:
    """Delete a blob that has no name yet, in a transaction of its own."""
    with transaction() as session:
        session.execute(delete(BlobRow).where(BlobRow.id == blob_id, BlobRow.sha256.is_(None)))


def commit_blob(session: Session, written: BlobDraft) -> str:
    """Name a blob in the caller's transaction; gives the id to refer to, an older blob's where the bytes are known.

    A caller with several blobs commits them in the order of their digests, so that two callers cannot wait for each
    other. Raises BlobGone when it was swept meanwhile.
    """
    known = name_blob(session, written)
    if known != written.id:
        session.execute(delete(BlobRow).where(BlobRow.id == written.id))
    return known


def name_blob(session: Session, written: BlobDraft) -> str:
    """The same, but a blob whose bytes are known stays, for who refers to it and has to let go of it."""
    known = refer(session, written)
    if known is None:
        try:
            with session.begin_nested():
                _touch(session, written.id, sha256=written.sha256, size=written.size)
        except IntegrityError:  # somebody else named the same bytes a moment ago
            known = refer(session, written)
    return known or written.id


def refer(session: Session, written: BlobDraft) -> str | None:
    """The id of the blob with those bytes, touched, so that a sweep which waits for us spares it."""
    same = (BlobRow.sha256 == written.sha256, BlobRow.size == written.size)
    return session.scalar(update(BlobRow).where(*same).values(touched_at=database_now()).returning(BlobRow.id))


def read_chunk(blob_id: str, number: int) -> bytes:
    """One piece of a blob, read in a transaction of its own. Raises BlobGone when there is none of that number."""
    with reading() as session:
        found = select(ChunkRow.content).where(ChunkRow.blob_id == blob_id, ChunkRow.number == number)
        content = session.scalar(found, execution_options=AS_BYTES)
    if content is None:
        raise BlobGone(f"chunk {number} of {blob_id} is not there any more")
    return content


def sweep(grace_seconds: float) -> int:
    """Delete blobs that nothing refers to, half-written ones among them, and that were not touched for that long.

    Gives how many were deleted.
    """
    with reading() as session:
        check_complete(session)
    count = 0
    while condemned := _condemn(grace_seconds):
        while _drop_chunks(condemned):
            pass
        with transaction() as session:
            session.execute(delete(BlobRow).where(BlobRow.id.in_(condemned)))
        count += len(condemned)
    if count:
        release_pages()
    return count


def drop_unreferenced(session: Session, blob_ids: Sequence[str]) -> None:
    """Delete those of the blobs that nothing refers to any more; one that another transaction holds is left to the
    sweep."""
    held = select(BlobRow.id).where(BlobRow.id.in_(blob_ids)).with_for_update(of=BlobRow, skip_locked=True)
    # A statement of its own, once nobody else can refer to them: a reference may have been committed before.
    free = delete(BlobRow).where(BlobRow.id.in_(session.scalars(held).all()), ~is_referenced())
    session.execute(free.execution_options(synchronize_session=False))


def _touch(session: Session, private_id: str, **name: object) -> None:
    values = {"touched_at": database_now(), **name}
    private = update(BlobRow).where(BlobRow.id == private_id, BlobRow.sha256.is_(None))
    if session.scalar(private.values(values).returning(BlobRow.id)) is None:
        raise BlobGone(f"{private_id} was swept before it was committed")


def _condemn(grace_seconds: float) -> Sequence[str]:
    """Give some blobs that are to go a name under which they are not found, written or committed any more."""
    old = BlobRow.touched_at <= database_now() - grace_seconds
    candidates = select(BlobRow.id).where(old, ~is_referenced()).limit(BLOBS_A_SWEEP)
    with transaction() as session:
        locked = session.scalars(candidates.with_for_update(of=BlobRow, skip_locked=True)).all()
        # Asked again, now that nobody else can refer to them: a reference may have been committed in between.
        free = update(BlobRow).where(BlobRow.id.in_(locked), ~is_referenced())
        condemned = free.values(sha256="swept " + BlobRow.id, size=0, draft_of=None).returning(BlobRow.id)
        return session.scalars(condemned.execution_options(synchronize_session=False)).all()


def _drop_chunks(blob_ids: Sequence[str]) -> bool:
    """Delete some chunks of those blobs; whether there were any."""
    some = select(ChunkRow.blob_id, ChunkRow.number).where(ChunkRow.blob_id.in_(blob_ids)).limit(CHUNKS_A_SWEEP)
    dropped = delete(ChunkRow).where(tuple_(ChunkRow.blob_id, ChunkRow.number).in_(some)).returning(ChunkRow.number)
    with transaction() as session:
        return bool(session.scalars(dropped.execution_options(synchronize_session=False)).all())
