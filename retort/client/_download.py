"""One artifact to one file: streamed, resumed, verified, and only then named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2

from retort.client._transport import Transport
from retort.client.errors import ConnectionFailed, CorruptDownload, UnexpectedAnswer

BLOCK_BYTES = 1 << 20
AS_IT_IS = {"Accept-Encoding": "identity"}
"""A proxy that packed the bytes would change their count and their digest."""

Progressed = Callable[[int, int], None]
"""Told (bytes here, bytes in all) as they come."""


@dataclass(frozen=True)
class Promised:
    """What the service says of the bytes before it sends them."""

    sha256: str
    size: int


def download(transport: Transport, path: str, name: str, to: Path, progressed: Progressed | None = None) -> Path:
    """Fetch what lies at `path`; see Jobs.download."""
    if Path(name).name != name:
        raise UnexpectedAnswer(f"an artifact's name is a plain file name; {name!r} is none")
    file = to / name if to.is_dir() else to
    promised = _promised(transport, path)
    # The digest in the name: a rest of other bytes is never taken for the beginning of these.
    part = file.with_name(f"{file.name}.{promised.sha256[:16]}.part")
    digest = _fetch(transport, path, part, promised, progressed)
    if digest != promised.sha256:
        part.unlink()
        raise CorruptDownload(f"{name} came with sha256 {digest}; {promised.sha256} was promised")
    part.replace(file)
    return file


def _promised(transport: Transport, path: str) -> Promised:
    headers = transport.request("HEAD", path, headers=AS_IT_IS).headers
    etag = headers.get("ETag", "")
    sha256 = etag.strip('"')
    if etag != f'"{sha256}"' or len(sha256) != 64 or "Content-Length" not in headers:
        raise UnexpectedAnswer(f"{transport.url} gives no strong sha256 ETag and length for {path}; is it Retort?")
    return Promised(sha256, int(headers["Content-Length"]))


def _fetch(transport: Transport, path: str, part: Path, promised: Promised, progressed: Progressed | None) -> str:
    """Fetch until all is here, however often it breaks, as long as it gets further; the sha256, hex."""
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return transport.patiently(lambda: _fetch_rest(transport, path, part, promised, progressed))
        except ConnectionFailed:
            if part.stat().st_size <= before:
                raise


def _fetch_rest(transport: Transport, path: str, part: Path, promised: Promised, progressed: Progressed | None) -> str:
    """Append what is missing of the part file; the sha256 of all of it, hex."""
    with part.open("a+b") as out:
        digest = _digest_so_far(out)
        here = out.tell()
        if here >= promised.size:
            return digest.hexdigest()
        rest = {"Range": f"bytes={here}-", "If-Range": f'"{promised.sha256}"'} if here else {}
        with transport.stream(path, AS_IT_IS | rest) as response:
            if here and response.status_code != httpx2.codes.PARTIAL_CONTENT:
                out.truncate(0)
                digest, here = hashlib.sha256(), 0
            # As they come, in no larger blocks: what was not written when it breaks has to come again.
            for block in response.iter_bytes():
                out.write(block)
                digest.update(block)
                here += len(block)
                if progressed:
                    progressed(here, promised.size)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _digest_so_far(file: IO[bytes]) -> hashlib._Hash:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest
