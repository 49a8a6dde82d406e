"""A part of an upload on its way from the wire into the database: a MiB at a time, and it counts once it is whole."""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from service.access.caller import Caller
from service.blobs.models import CHUNK_BYTES
from service.blobs.repository import BlobGone, begin_blob, drop_private, move_chunks, write_chunk
from service.db import LOST, reading, transaction
from service.errors import BadRequest, Conflict, FieldError, Invalid, TooLarge, UnsupportedMediaType, quote
from service.uploads import repository, service
from service.uploads.models import UploadPartRow
from service.usage.service import check_part

MEDIA_TYPE = "application/octet-stream"
DIGEST_HEADERS = ("Content-Digest", "Repr-Digest")
"""RFC 9530. Without a Content-Encoding both speak of the same bytes."""
DIGEST = re.compile(r'[a-z*][a-z0-9_.*-]*=:[A-Za-z0-9+/]*={0,2}:(;[a-z*][a-z0-9_.*-]*(=[^,"]*)?)*')
WANTED_DIGEST = "wanted 'sha-256=:...:' with the part's sha256 in base 64"


@dataclass(frozen=True)
class PartSlot:
    """A part that may come now."""

    project_id: str
    upload_id: str
    number: int
    size: int
    """In bytes."""
    sha256: str
    """Promised for it, hex."""
    chunks: range
    """Numbers of the upload's chunks that it is."""
    upload_bytes: int
    """Size of the whole upload."""


def expect(caller: Caller, upload_id: str, number: int, headers: Mapping[str, str]) -> PartSlot:
    """The slot of a part, by its head alone. Raises Invalid and UnsupportedMediaType for a wrong head."""
    with reading() as session:
        upload = service.read(session, caller, upload_id)
    service.check_open(upload)
    if not 1 <= number <= upload.parts:
        found = f"upload {upload.id} has the parts 1 to {upload.parts}; there is no part {quote(number)}"
        raise Invalid.of([FieldError(parameter="number", detail=found)])
    _check_form(headers)
    size = upload.part_size(number)
    if (length := headers.get("content-length")) is not None and length != str(size):
        found = f"part {number} has {size:,} bytes; Content-Length says {quote(length)}"
        raise Invalid.of([FieldError(parameter="Content-Length", detail=found)])
    return PartSlot(caller.project_id, upload.id, number, size, _promised(headers), upload.chunks(number), upload.size)


async def receive(expected: PartSlot, stream: AsyncIterator[bytes]) -> UploadPartRow:
    """Take a part in. Until it is whole and as promised its bytes lie in a blob of their own, and go when it is not.

    No connection and no thread is held while bytes are waited for. Raises BadRequest, Conflict, Invalid,
    TooLarge and TooManyRequests.
    """
    draft_id = await run_in_threadpool(_begin, expected)
    try:
        await _fill(draft_id, expected, stream)
        return await run_in_threadpool(_count, draft_id, expected)
    except Exception as error:
        with suppress(*LOST):  # then the sweep takes it
            await run_in_threadpool(drop_private, draft_id)
        if isinstance(error, BlobGone):
            raise Conflict(f"part {expected.number} came too slowly and was given up; send it again") from None
        if isinstance(error, ClientDisconnect):
            raise BadRequest(f"the connection broke within part {expected.number}") from None
        raise


async def _fill(draft_id: str, expected: PartSlot, stream: AsyncIterator[bytes]) -> None:
    """Write what comes and check that it is what was promised."""
    digest, size = hashlib.sha256(), 0

    def write(number: int, content: bytes) -> None:
        digest.update(content)
        write_chunk(draft_id, number, content)

    async for content in _chunks(stream):
        size += len(content)
        if size > expected.size:
            raise TooLarge(f"part {expected.number} has {expected.size:,} bytes; more came")
        await run_in_threadpool(write, expected.chunks[(size - 1) // CHUNK_BYTES], content)
        del content  # or a sender that is waited for would hold it meanwhile
    if size != expected.size:
        raise Invalid(f"part {expected.number} has {expected.size:,} bytes; {size:,} came")
    if (found := digest.hexdigest()) != expected.sha256:
        raise Invalid(f"part {expected.number} came with sha256 {found}; its header promised {expected.sha256}")


async def _chunks(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes, in pieces of a chunk's size and a last smaller one."""
    buffer = bytearray()
    async for piece in stream:
        buffer += piece
        while len(buffer) >= CHUNK_BYTES:
            yield _taken(buffer)
    if buffer:
        yield bytes(buffer)


def _taken(buffer: bytearray) -> bytes:
    """The first chunk of a buffer, which no longer holds it."""
    content = bytes(memoryview(buffer)[:CHUNK_BYTES])
    del buffer[:CHUNK_BYTES]
    return content


def _begin(expected: PartSlot) -> str:
    """A blob for a part, whose bytes count from now on. Raises TooManyRequests."""
    with transaction() as session:
        received = repository.received_bytes(session, [expected.upload_id]).get(expected.upload_id, 0)
        check_part(session, expected.project_id, expected.size, expected.upload_bytes - received)
        return begin_blob(session, draft_of=expected.project_id, draft_bytes=expected.size)


def _count(draft_id: str, expected: PartSlot) -> UploadPartRow:
    """Let a part count from now on, in the place of one of that number that came before."""
    with transaction() as session:
        upload = service.lock(session, expected.project_id, expected.upload_id)
        service.check_open(upload)
        move_chunks(session, draft_id, upload.blob_id, expected.chunks)
        now = service.prolong(session, upload)
        part = UploadPartRow(
            upload_id=upload.id, number=expected.number, size=expected.size, sha256=expected.sha256, at=now
        )
        repository.put_part(session, part)
        return part


def _check_form(headers: Mapping[str, str]) -> None:
    kind = headers.get("content-type", MEDIA_TYPE)
    if kind.partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise UnsupportedMediaType(f"the part's Content-Type is {quote(kind)}; wanted '{MEDIA_TYPE}'")
    encoding = headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(f"the part's Content-Encoding is {quote(encoding)}; wanted none")


def _promised(headers: Mapping[str, str]) -> str:
    """The sha256, hex, that the part's head promises. Raises Invalid."""
    given = {name: headers[name] for name in DIGEST_HEADERS if name in headers}
    if not given:
        raise _wrong_digest(DIGEST_HEADERS[0], f"the header Content-Digest is missing; {WANTED_DIGEST}")
    found = {name: _sha256_of(name, value) for name, value in given.items()}
    if len({*found.values()}) > 1:
        raise _wrong_digest(DIGEST_HEADERS[0], "Content-Digest and Repr-Digest promise two different sha256")
    return next(iter(found.values()))


def _sha256_of(name: str, value: str) -> str:
    members = [member.strip() for member in value.split(",")]
    if all(DIGEST.fullmatch(member) for member in members):
        for member in members:
            algorithm, _, rest = member.partition("=:")
            if algorithm == "sha-256":
                with suppress(ValueError):  # of base 64
                    if len(digest := b64decode(rest.partition(":")[0], validate=True)) == hashlib.sha256().digest_size:
                        return digest.hex()
    raise _wrong_digest(name, f"{name} is {quote(value)}; {WANTED_DIGEST}")


def _wrong_digest(name: str, detail: str) -> Invalid:
    return Invalid.of([FieldError(parameter=name, detail=detail)])
