"""Download of one artifact: streamed, resumed, verified, and only then given its name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx2

from retort.client._transport import Transport
from retort.client.errors import CorruptDownloadError, UnexpectedAnswerError, UnreachableError

BLOCK_BYTES = 1 << 20
IDENTITY = {"Accept-Encoding": "identity"}
"""A proxy that compressed the bytes would change their count and their digest."""

ProgressCallback = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as they come."""


@dataclass(frozen=True)
class RemoteFile:
    """Digest and size of a file, as the headers of the service give them."""

    sha256: str
    size: int


def download(transport: Transport, path: str, name: str, to: Path, on_progress: ProgressCallback | None = None) -> Path:
    """Fetch the file at `path`; see Jobs.download."""
    if Path(name).name != name:
        raise UnexpectedAnswerError(f"the artifact's name is {name!r}; wanted a plain file name")
    file = to / name if to.is_dir() else to
    remote = _head(transport, path)
    # The digest is in the name, so that a part file of other bytes is never continued.
    part = file.with_name(f"{file.name}.{remote.sha256[:16]}.part")
    digest = _fetch(transport, path, part, remote, on_progress)
    if digest != remote.sha256:
        part.unlink()
        raise CorruptDownloadError(f"{name} came with sha256 {digest}; {remote.sha256} was wanted; download it again")
    part.replace(file)
    return file


def _head(transport: Transport, path: str) -> RemoteFile:
    headers = transport.request("HEAD", path, headers=IDENTITY).headers
    etag = headers.get("ETag", "")
    sha256 = etag.strip('"')
    if etag != f'"{sha256}"' or len(sha256) != 64 or "Content-Length" not in headers:
        raise UnexpectedAnswerError(
            f"{transport.url} gives no strong sha256 ETag and length for {path}; check that it is a Retort service"
        )
    return RemoteFile(sha256, int(headers["Content-Length"]))


def _fetch(
    transport: Transport, path: str, part: Path, remote: RemoteFile, on_progress: ProgressCallback | None
) -> str:
    """Fetch all bytes, again after each broken connection that brought some; the sha256, hex."""
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            return transport.with_retries(lambda: _fetch_rest(transport, path, part, remote, on_progress))
        except UnreachableError:
            if part.stat().st_size <= before:
                raise


def _fetch_rest(
    transport: Transport, path: str, part: Path, remote: RemoteFile, on_progress: ProgressCallback | None
) -> str:
    """Append the missing bytes to the part file; the sha256 of all of it, hex."""
    with part.open("a+b") as out:
        digest = _digest(out)
        done = out.tell()
        if done >= remote.size:
            return digest.hexdigest()
        resume = {"Range": f"bytes={done}-", "If-Range": f'"{remote.sha256}"'} if done else {}
        with transport.stream(path, IDENTITY | resume) as response:
            if done and response.status_code != httpx2.codes.PARTIAL_CONTENT:
                out.truncate(0)
                digest, done = hashlib.sha256(), 0
            # Blocks as they come: bytes that are not written when the connection breaks have to come again.
            for block in response.iter_bytes():
                out.write(block)
                digest.update(block)
                done += len(block)
                if on_progress:
                    on_progress(done, remote.size)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _digest(file: IO[bytes]) -> hashlib._Hash:
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(BLOCK_BYTES):
        digest.update(block)
    return digest
