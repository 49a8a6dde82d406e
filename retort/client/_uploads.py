"""One file to the service: in parts, several at once, each with its digest, taken up where it broke."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal, TypeVar

import httpx2

from retort.client._download import Progressed
from retort.client._transport import Busy, Transport, path, pause_seconds, unreachable
from retort.client._types import Upload
from retort.client.errors import Conflict, ConnectionFailed, error_for

BLOCK_BYTES = 1 << 18
STREAMS = 4
"""How many parts are on their way at once."""
PATIENCE_SECONDS = 120.0
"""How long one part, or the end, is tried again after it first failed."""
VERIFY_SECONDS, SLOWEST_BYTES_PER_SECOND = 60.0, 5e6
"""How long the service may take to verify the whole: so long, and what its bytes take at that pace."""

Answer = TypeVar("Answer")


class Uploads:
    """What `client.uploads` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        file: Path | str,
        *,
        kind: Literal["dataset", "model"],
        name: str | None = None,
        progressed: Progressed | None = None,
    ) -> Upload:
        """Bring a file; gives the complete upload, verified by its sha256.

        Constant memory. A transfer that broke, also of an earlier call or process, is taken up where it broke: parts
        that the service has are not sent again. Bytes that the project has already are not sent at all. `progressed`
        is told (bytes there, bytes in all); the first falls where a part has to be sent again.
        """
        with Path(file).open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            begun = self._begin(kind, name or Path(file).name, size, sha256)
            try:
                if begun.state == "open":
                    _Sending(self._transport, begun, source.fileno(), progressed).run()
                    return self._complete(begun)
            except Conflict:  # somebody else may have brought the same file meanwhile
                if self.get(begun.id).state != "complete":
                    raise
        if progressed:
            progressed(size, size)
        return self.get(begun.id)

    def get(self, upload_id: str) -> Upload:
        return self._transport.get(path("uploads", upload_id), Upload)

    def list(self, *, state: str | None = None, kind: str | None = None, page: int = 50) -> Iterator[Upload]:
        """Newest first; pages are fetched as they are reached."""
        return self._transport.pages("/v1/uploads", Upload, {"state": state, "kind": kind, "limit": page})

    def delete(self, upload_id: str) -> None:
        """Give an upload up that no job goes on to use. What was made of it stays."""
        self._transport.request("DELETE", path("uploads", upload_id), again=False)

    def _begin(self, kind: str, name: str, size: int, sha256: str) -> Upload:
        """A new upload, or the one that an earlier call began for the same file."""
        body = {"kind": kind, "name": name, "size": size, "sha256": sha256}
        key = hashlib.sha256(repr(body).encode()).hexdigest()
        response = self._transport.request("POST", "/v1/uploads", json=body, headers={"Idempotency-Key": key})
        return self._transport.read(response, Upload)

    def _complete(self, begun: Upload) -> Upload:
        timeout = VERIFY_SECONDS + begun.size / SLOWEST_BYTES_PER_SECOND
        address = path("uploads", begun.id, "complete")
        response = _insist(self._transport, lambda: self._transport.send("POST", address, timeout_seconds=timeout))
        return self._transport.read(response, Upload)


class _Sending:
    """The parts of one upload on their way."""

    def __init__(self, transport: Transport, upload: Upload, source: int, progressed: Progressed | None) -> None:
        self._transport, self._upload, self._source, self._progressed = transport, upload, source, progressed
        self._there = {part.number: part.sha256 for part in upload.received}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done = 0

    def run(self) -> None:
        """Bring all parts that are not there as they are here; the first that fails ends it."""
        with ThreadPoolExecutor(STREAMS, thread_name_prefix="upload") as pool:
            futures = [pool.submit(self._bring, number) for number in range(1, self._upload.parts + 1)]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _bring(self, number: int) -> None:
        digest = hashlib.sha256()
        for block in self._blocks(number):
            digest.update(block)
        if self._there.get(number) == digest.hexdigest():
            self._advance(sum(len(block) for block in self._blocks(number)))
            return
        headers = {
            "Content-Length": str(self._size(number)),
            "Content-Type": "application/octet-stream",
            "Content-Digest": f"sha-256=:{b64encode(digest.digest()).decode()}:",
        }
        _insist(self._transport, lambda: self._send(number, headers), self._stopped)

    def _send(self, number: int, headers: dict[str, str]) -> None:
        sent = 0

        def told() -> Iterator[bytes]:
            nonlocal sent
            for block in self._blocks(number):
                if self._stopped.is_set():
                    raise InterruptedError("the upload was given up")
                yield block
                sent += len(block)
                self._advance(len(block))

        try:
            self._transport.send("PUT", path("uploads", self._upload.id, "parts", str(number)), told(), headers)
        except BaseException:
            self._advance(-sent)
            raise

    def _size(self, number: int) -> int:
        return min(self._upload.part_bytes, self._upload.size - (number - 1) * self._upload.part_bytes)

    def _blocks(self, number: int) -> Iterator[bytes]:
        """The bytes of a part. Raises OSError when the file has become shorter."""
        place, left = (number - 1) * self._upload.part_bytes, self._size(number)
        while left:
            block = os.pread(self._source, min(BLOCK_BYTES, left), place)
            if not block:
                raise OSError(None, "the file became shorter while it was uploaded")
            yield block
            place, left = place + len(block), left - len(block)

    def _advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._progressed:
                self._progressed(self._done, self._upload.size)


def _insist(transport: Transport, ask: Callable[[], Answer], stopped: threading.Event | None = None) -> Answer:
    """Ask until there is an answer, or until there has been none for too long."""
    give_up_at, attempt = float("inf"), 0
    while True:
        try:
            return ask()
        except (httpx2.TransportError, Busy) as error:
            attempt += 1
            give_up_at = min(give_up_at, time.monotonic() + PATIENCE_SECONDS)
            if time.monotonic() > give_up_at or (stopped is not None and stopped.is_set()):
                if isinstance(error, Busy):
                    raise error_for(error.problem) from None
                raise ConnectionFailed(unreachable(transport.url, error)) from error
            pause = max(pause_seconds(min(attempt, 5)), error.wanted_seconds if isinstance(error, Busy) else 0.0)
            if stopped is not None:
                stopped.wait(pause)
            else:
                time.sleep(pause)
