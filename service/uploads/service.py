"""Making, completing, using and deleting uploads. Parts come in by service.uploads.reception."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.access.caller import Caller
from service.blobs.models import CHUNK_BYTES
from service.blobs.repository import BlobDraft, BlobGone, begin_blob, name_blob, read_chunk
from service.db import read_now, reading, transaction
from service.errors import Conflict, FieldError, Invalid, NotFound, quote
from service.ids import new_id
from service.jobs.uses import check_unused
from service.paging import Position
from service.settings import get_settings
from service.uploads import repository
from service.uploads.models import UploadKind, UploadPartRow, UploadRow, UploadState
from service.uploads.repository import UploadSnapshot
from service.uploads.schemas import MOST_PART_BYTES, UploadCreate, UploadDetail, UploadQuery, UploadRead, detail, shown
from service.usage.service import check_upload, uploads_retention_seconds

PART_BYTES = 8 * CHUNK_BYTES
"""Default size of a part: the most that a broken connection costs, a stream."""
USUAL_PARTS, MOST_PARTS = 1_000, 10_000
"""From how many on parts are made larger, and how many there may be."""
LISTED_PARTS = 10
"""Number of missing parts that a sentence names."""


def create(
    session: Session, caller: Caller, asked: UploadCreate, idempotency_key: str | None
) -> tuple[UploadRow, bool]:
    """A new upload, or the one that the same key and wish began before, and whether it is that one.

    One whose bytes the project has already is complete. Raises Invalid and TooLarge.
    """
    digest = hashlib.sha256(asked.model_dump_json().encode()).hexdigest()
    made = _made_before(session, caller, idempotency_key, digest)
    if made is None:
        upload = _new(session, caller, asked, idempotency_key, digest)
        if repository.add(session, upload):
            return upload, False
        made = _made_before(session, caller, idempotency_key, digest)
    if made is None:
        raise RuntimeError("an upload could not be stored, though no other has its idempotency key")
    return made, True


def read(session: Session, caller: Caller, upload_id: str) -> UploadRow:
    """The upload. Raises NotFound, for another project's or an expired one as for none."""
    return _living(repository.find(session, caller.project_id, upload_id), upload_id)


def lock(session: Session, project_id: str, upload_id: str) -> UploadRow:
    """The upload, which nobody else changes until the transaction ends. Raises NotFound."""
    return _living(repository.find(session, project_id, upload_id, lock=True), upload_id)


def describe(session: Session, upload: UploadRow) -> UploadDetail:
    """The upload as it is shown alone."""
    return detail(upload, repository.parts_of(session, upload.id))


def page(
    session: Session, caller: Caller, query: UploadQuery, after: Position | None, limit: int
) -> Sequence[UploadRow]:
    """Uploads that the query asks for, newest first."""
    return repository.page(session, caller.project_id, query, after, limit)


def shown_all(session: Session, uploads: Sequence[UploadRow]) -> list[UploadRead]:
    """Uploads as lists show them."""
    received = repository.received_bytes(session, [upload.id for upload in uploads])
    return [shown(upload, received.get(upload.id, 0)) for upload in uploads]


def delete(session: Session, caller: Caller, upload_id: str) -> None:
    """Give an upload up that no job goes on to use. What was made of it stays. Raises NotFound and Conflict."""
    upload = lock(session, caller.project_id, upload_id)
    check_unused(session, caller.project_id, upload_id)
    repository.remove(session, upload)


def check_open(upload: UploadRow) -> None:
    """Raise Conflict unless the upload takes parts."""
    if upload.state is UploadState.complete:
        raise Conflict(f"upload {upload.id} is complete; its bytes can no longer change")


def prolong(session: Session, upload: UploadRow) -> float:
    """Keep an upload for its whole time from now on; gives now."""
    now, seconds = read_now(session), get_settings().upload_seconds
    if upload.state is UploadState.complete:
        seconds = uploads_retention_seconds(session, upload.project_id)
    upload.expires_at = now + seconds
    return now


async def complete(caller: Caller, upload_id: str) -> UploadDetail:
    """Verify the sha256 of the whole and close the upload; one that is complete stays as it is.

    Between two chunks neither a connection nor a thread is held. Raises NotFound, Conflict and Invalid.
    """
    upload, parts = await run_in_threadpool(_ready, caller, upload_id)
    if upload.state is UploadState.complete:
        return detail(upload, ())
    digest = hashlib.sha256()

    def add_chunk(number: int) -> None:
        digest.update(read_chunk(upload.blob_id, number))

    try:
        for number in range(-(-upload.size // CHUNK_BYTES)):
            await run_in_threadpool(add_chunk, number)
    except BlobGone:
        raise NotFound(f"upload {upload.id} was given up while it was verified") from None
    return await run_in_threadpool(_settle, caller, upload_id, parts, digest.hexdigest())


def use(session: Session, project_id: str, upload_id: str, kind: UploadKind, pointer: str) -> UploadRow:
    """A complete upload that something is to be made of, kept a while longer for that. Raises Invalid, which points at
    the field that names the upload."""
    seen = repository.find(session, project_id, upload_id, lock=True)
    try:
        upload = _living(seen, upload_id)
        if upload.state is not UploadState.complete:
            raise Conflict(f"upload {upload.id} is not complete")
        if upload.kind is not kind:
            raise Conflict(f"upload {upload.id} is a {upload.kind.value}; wanted a {kind.value}")
    except (NotFound, Conflict) as refusal:
        raise Invalid.of([FieldError(pointer=pointer, detail=refusal.detail, found=upload_id)]) from None
    prolong(session, upload)
    return upload


def sweep_uploads() -> int:
    """Give up all uploads whose time is over; gives how many."""
    with transaction() as session:
        return repository.remove_expired(session)


def _part_bytes(asked: UploadCreate) -> int:
    """Bytes of the parts. Raises Invalid."""
    part_bytes = asked.part_bytes or PART_BYTES
    while asked.part_bytes is None and asked.size > USUAL_PARTS * part_bytes and part_bytes < MOST_PART_BYTES:
        part_bytes *= 2
    count = -(-asked.size // part_bytes)
    if count > MOST_PARTS:
        found = f"{asked.size:,} bytes in parts of {part_bytes:,} make {count:,} parts; wanted at most {MOST_PARTS:,}"
        raise Invalid.of([FieldError(pointer="/part_bytes", detail=found, found=asked.part_bytes)])
    return part_bytes


def _made_before(session: Session, caller: Caller, idempotency_key: str | None, digest: str) -> UploadRow | None:
    if idempotency_key is None:
        return None
    seen = repository.by_idempotency_key(session, caller.project_id, idempotency_key)
    if seen is None:
        return None
    if _is_over(seen):
        seen.upload.idempotency_key = None  # the upload itself is the sweep's
        session.flush()
        return None
    if seen.upload.body_digest != digest:
        found = f"the idempotency key {quote(idempotency_key)} has begun upload {seen.upload.id} of another body"
        detail = f"{found}; wanted a new key"
        raise Invalid.of([FieldError(parameter="Idempotency-Key", detail=detail, found=idempotency_key)])
    return seen.upload


def _new(session: Session, caller: Caller, asked: UploadCreate, idempotency_key: str | None, digest: str) -> UploadRow:
    known = repository.stored_blob(session, caller.project_id, asked.sha256, asked.size)
    if known is None:
        check_upload(session, caller.project_id, asked.size)
    part_bytes = _part_bytes(asked)
    now = read_now(session)
    upload = UploadRow(
        id=new_id("upload", now),
        project_id=caller.project_id,
        kind=asked.kind,
        name=asked.name,
        size=asked.size,
        sha256=asked.sha256,
        part_bytes=part_bytes,
        blob_id=known or begin_blob(session),
        state=UploadState.complete if known else UploadState.open,
        idempotency_key=idempotency_key,
        body_digest=digest,
        created_at=now,
    )
    prolong(session, upload)
    return upload


def _ready(caller: Caller, upload_id: str) -> tuple[UploadRow, list[tuple[int, str]]]:
    """An upload none of whose parts is missing, and their digests. Raises NotFound and Conflict."""
    with reading() as session:
        upload = read(session, caller, upload_id)
        parts = _digests(session, upload_id)
    missing = sorted({*range(1, upload.parts + 1)} - {number for number, _ in parts})
    if missing and upload.state is UploadState.open:
        named = ", ".join(map(str, missing[:LISTED_PARTS]))
        more = f" and {len(missing) - LISTED_PARTS} more" if len(missing) > LISTED_PARTS else ""
        raise Conflict(f"upload {upload.id} lacks {len(missing)} of its {upload.parts} parts: {named}{more}")
    return upload, parts


def _settle(caller: Caller, upload_id: str, parts: list[tuple[int, str]], sha256: str) -> UploadDetail:
    """Name the bytes that were found to have that digest when the parts were these."""
    with transaction() as session:
        upload = lock(session, caller.project_id, upload_id)
        if upload.state is UploadState.open:
            if _digests(session, upload_id) != parts:
                raise Conflict(f"parts of upload {upload.id} came while it was verified; complete it again")
            if sha256 != upload.sha256:
                found = f"the parts of upload {upload.id} make a file of sha256 {sha256}; {upload.sha256} was promised"
                raise Invalid(f"{found}: send the parts again whose digests are not yours")
            private = upload.blob_id
            upload.blob_id = name_blob(session, BlobDraft(private, sha256, upload.size))
            upload.state = UploadState.complete
            prolong(session, upload)
            session.flush()
            repository.forget_parts(session, upload_id)
            repository.let_go(session, [private])
        return detail(upload, ())


def _digests(session: Session, upload_id: str) -> list[tuple[int, str]]:
    parts: Sequence[UploadPartRow] = repository.parts_of(session, upload_id)
    return [(part.number, part.sha256) for part in parts]


def _living(seen: UploadSnapshot | None, upload_id: str) -> UploadRow:
    if seen is None:
        raise NotFound(f"there is no upload {quote(upload_id)}")
    if _is_over(seen):
        raise NotFound(f"upload {upload_id} has expired; wanted a new one")
    return seen.upload


def _is_over(seen: UploadSnapshot) -> bool:
    return seen.upload.expires_at <= seen.now
