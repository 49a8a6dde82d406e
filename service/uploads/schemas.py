"""Uploads as the API takes and shows them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import datetime

from pydantic import Field, field_validator

from service.blobs.models import CHUNK_BYTES
from service.errors import quote
from service.paging import PageQuery
from service.schemas import RequestModel, ResponseModel
from service.uploads.models import UploadKind, UploadPartRow, UploadRow, UploadState

SHA256 = r"^[0-9a-f]{64}$"
MOST_PART_BYTES = 64 * CHUNK_BYTES


class UploadCreate(RequestModel):
    """A file to be uploaded."""

    kind: UploadKind
    """The thing to be made of it."""
    name: str = Field(min_length=1, max_length=255)
    """The file's name, for people. What stands before a slash or backslash, and what cannot be seen, is left out."""
    size: int = Field(ge=1, strict=True)
    """In bytes."""
    sha256: str = Field(pattern=SHA256)
    """Of the whole file, hex, in small letters."""
    part_bytes: int | None = Field(
        default=None, ge=CHUNK_BYTES, le=MOST_PART_BYTES, multiple_of=CHUNK_BYTES, strict=True
    )
    """Size of every part but the last, in bytes, a multiple of 1 MiB; null leaves it to the service."""

    @field_validator("name")
    @classmethod
    def _is_cleaned(cls, name: str) -> str:
        if not (cleaned := clean_name(name)):
            raise ValueError(f"{quote(name)} names no file; wanted a name like 'flowers.tar'")
        return cleaned


class UploadQuery(PageQuery):
    """Filters of the list of uploads."""

    state: UploadState | None = None
    """Only uploads in this state."""
    kind: UploadKind | None = None
    """Only uploads of this kind."""
    sha256: str | None = Field(default=None, pattern=SHA256)
    """Only uploads that promise this sha256."""


class PartRead(ResponseModel):
    """A part that has come whole."""

    number: int
    """From 1."""
    size: int
    """In bytes."""
    sha256: str
    """Hex."""
    at: datetime
    """When it came."""


class UploadLinks(ResponseModel):
    """Paths for the upload's parts."""

    self: str
    parts: str
    """A part is put under this and its number."""
    complete: str


class UploadRead(ResponseModel):
    """A file of a user, whole or not."""

    id: str
    kind: UploadKind
    name: str
    size: int
    """Promised, in bytes."""
    sha256: str
    """Promised, hex."""
    state: UploadState
    """`complete` once all bytes are there and have that sha256."""
    part_bytes: int
    """Size of every part but the last, in bytes."""
    parts: int
    """Number of its parts, which count from 1."""
    received_bytes: int
    """Bytes that have come, in whole parts."""
    created_at: datetime
    expires_at: datetime
    """When it is given up: an unfinished one some time after its last part, a complete one some time after something
    was last made of it."""
    links: UploadLinks


class UploadDetail(UploadRead):
    """One upload, with the parts that have come."""

    received: list[PartRead]
    """By number; empty once it is complete."""


def clean_name(name: str) -> str:
    """The name of the file in a path of whatever system, without what cannot be seen or changes how the rest is read;
    empty where nothing is left."""
    last = re.split(r"[/\\]", unicodedata.normalize("NFC", name))[-1]
    # C: control, format (also those that turn the direction of writing), private, unassigned; Z: separators.
    seen = "".join(" " if unicodedata.category(sign)[0] == "Z" else sign for sign in last if _is_seen(sign))
    cleaned = " ".join(seen.split())
    return "" if cleaned in (".", "..") else cleaned


def _is_seen(sign: str) -> bool:
    return unicodedata.category(sign)[0] != "C"


def shown(upload: UploadRow, received_bytes: int) -> UploadRead:
    """An upload as lists show it."""
    complete = upload.state is UploadState.complete
    here = f"/v1/uploads/{upload.id}"
    return UploadRead(
        id=upload.id, kind=upload.kind, name=upload.name, size=upload.size, sha256=upload.sha256, state=upload.state,
        part_bytes=upload.part_bytes, parts=upload.parts, received_bytes=upload.size if complete else received_bytes,
        created_at=upload.created_at, expires_at=upload.expires_at,
        links=UploadLinks(self=here, parts=f"{here}/parts", complete=f"{here}/complete"),
    )  # fmt: skip


def detail(upload: UploadRow, received: Sequence[UploadPartRow]) -> UploadDetail:
    """An upload as it is shown alone."""
    parts = [part_shown(part) for part in received]
    return UploadDetail(**shown(upload, sum(part.size for part in parts)).model_dump(), received=parts)


def part_shown(part: UploadPartRow) -> PartRead:
    """A part as the API shows it."""
    return PartRead(number=part.number, size=part.size, sha256=part.sha256, at=part.at)
