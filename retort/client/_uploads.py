"""Uploads: one file in parts, several at once, each with its digest, resumed where it broke."""

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

from retort.client._download import ProgressCallback
from retort.client._transport import ServiceBusy, Transport, path, pause_seconds, unreachable
from retort.client._types import UploadInfo
from retort.client.errors import ConflictError, UnreachableError, error_for

BLOCK_BYTES = 1 << 18
STREAMS = 4
"""Parts that are sent at once."""
PATIENCE_SECONDS = 120.0
"""Time for which one part, or the completion, is tried again after its first failure."""
VERIFY_SECONDS, SLOWEST_BYTES_PER_SECOND = 60.0, 5e6
"""Timeout of the verification of the whole: a constant, and the time of its bytes at that rate."""

Outcome = TypeVar("Outcome")


class Uploads:
    """`client.uploads`: files that data sets and models are made of."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(
        self,
        file: Path | str,
        *,
        kind: Literal["dataset", "model"],
        name: str | None = None,
        on_progress: ProgressCallback | None = None,
    ) -> UploadInfo:
        """Upload a file; the complete upload, verified by its sha256.

        Constant memory. A transfer that broke, also one of an earlier call or process, is resumed: parts that the
        service has are not sent again. Bytes that the project already has are not sent at all. `on_progress` is called
        with (bytes done, bytes in all); the first falls where a part has to be sent again.
        """
        with Path(file).open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            upload = self._create(kind, name or Path(file).name, size, sha256)
            try:
                if upload.state == "open":
                    _PartSender(self._transport, upload, source.fileno(), on_progress).run()
                    return self._complete(upload)
            except ConflictError:  # another client may have uploaded the same file meanwhile
                if self.get(upload.id).state != "complete":
                    raise
        if on_progress:
            on_progress(size, size)
        return self.get(upload.id)

    def get(self, upload_id: str) -> UploadInfo:
        return self._transport.get(path("uploads", upload_id), UploadInfo)

    def list(self, *, state: str | None = None, kind: str | None = None, page: int = 50) -> Iterator[UploadInfo]:
        """Newest first; pages are fetched as they are reached."""
        return self._transport.pages("/v1/uploads", UploadInfo, {"state": state, "kind": kind, "limit": page})

    def delete(self, upload_id: str) -> None:
        """Delete an upload; what was made of it stays. Raises ConflictError while a job that has not ended uses it."""
        self._transport.request("DELETE", path("uploads", upload_id), retry=False)

    def _create(self, kind: str, name: str, size: int, sha256: str) -> UploadInfo:
        """A new upload, or the one that an earlier call made for the same file."""
        body = {"kind": kind, "name": name, "size": size, "sha256": sha256}
        key = hashlib.sha256(repr(body).encode()).hexdigest()
        response = self._transport.request("POST", "/v1/uploads", json=body, headers={"Idempotency-Key": key})
        return self._transport.read(response, UploadInfo)

    def _complete(self, upload: UploadInfo) -> UploadInfo:
        timeout = VERIFY_SECONDS + upload.size / SLOWEST_BYTES_PER_SECOND
        address = path("uploads", upload.id, "complete")
        response = _send_with_retries(
            self._transport, lambda: self._transport.send("POST", address, timeout_seconds=timeout)
        )
        return self._transport.read(response, UploadInfo)


class _PartSender:
    """Sender of one upload's parts, several at once."""

    def __init__(
        self, transport: Transport, upload: UploadInfo, source: int, on_progress: ProgressCallback | None
    ) -> None:
        self._transport, self._upload, self._source, self._on_progress = transport, upload, source, on_progress
        self._received = {part.number: part.sha256 for part in upload.received}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._done = 0

    def run(self) -> None:
        """Send all parts that the service lacks or has with another digest; the first that fails ends it."""
        with ThreadPoolExecutor(STREAMS, thread_name_prefix="upload") as pool:
            futures = [pool.submit(self._upload_part, number) for number in range(1, self._upload.parts + 1)]
            try:
                for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                    future.result()
            finally:
                self._stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _upload_part(self, number: int) -> None:
        digest = hashlib.sha256()
        for block in self._blocks(number):
            digest.update(block)
        if self._received.get(number) == digest.hexdigest():
            self._advance(sum(len(block) for block in self._blocks(number)))
            return
        headers = {
            "Content-Length": str(self._size(number)),
            "Content-Type": "application/octet-stream",
            "Content-Digest": f"sha-256=:{b64encode(digest.digest()).decode()}:",
        }
        _send_with_retries(self._transport, lambda: self._send(number, headers), self._stopped)

    def _send(self, number: int, headers: dict[str, str]) -> None:
        sent = 0

        def content() -> Iterator[bytes]:
            nonlocal sent
            for block in self._blocks(number):
                if self._stopped.is_set():
                    raise InterruptedError("the upload was stopped")
                yield block
                sent += len(block)
                self._advance(len(block))

        try:
            self._transport.send("PUT", path("uploads", self._upload.id, "parts", str(number)), content(), headers)
        except BaseException:
            self._advance(-sent)
            raise

    def _size(self, number: int) -> int:
        return min(self._upload.part_bytes, self._upload.size - (number - 1) * self._upload.part_bytes)

    def _blocks(self, number: int) -> Iterator[bytes]:
        """The bytes of a part. Raises OSError when the file has become shorter."""
        position, left = (number - 1) * self._upload.part_bytes, self._size(number)
        while left:
            block = os.pread(self._source, min(BLOCK_BYTES, left), position)
            if not block:
                raise OSError(None, "the file became shorter while it was uploaded")
            yield block
            position, left = position + len(block), left - len(block)

    def _advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            if self._on_progress:
                self._on_progress(self._done, self._upload.size)


def _send_with_retries(
    transport: Transport, send: Callable[[], Outcome], stopped: threading.Event | None = None
) -> Outcome:
    """Send a request until it is answered; raises its last error PATIENCE_SECONDS after the first one."""
    give_up_at, attempt = float("inf"), 0
    while True:
        try:
            return send()
        except (httpx2.TransportError, ServiceBusy) as error:
            attempt += 1
            give_up_at = min(give_up_at, time.monotonic() + PATIENCE_SECONDS)
            if time.monotonic() > give_up_at or (stopped is not None and stopped.is_set()):
                if isinstance(error, ServiceBusy):
                    raise error_for(error.problem) from None
                raise UnreachableError(unreachable(transport.url, error)) from error
            pause = max(
                pause_seconds(min(attempt, 5)), error.retry_after_seconds if isinstance(error, ServiceBusy) else 0.0
            )
            if stopped is not None:
                stopped.wait(pause)
            else:
                time.sleep(pause)
