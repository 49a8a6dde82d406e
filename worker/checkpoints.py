"""Copies of the engine's checkpoints in the database, so that a worker on another machine can go on from them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from retort.event import Checkpoint
from service.blobs.repository import BlobGone, write_blob
from service.claims import service
from service.claims.repository import Claim, LostLease
from service.db import LOST, transaction, why
from service.usage.service import most_stored_bytes
from worker import metrics
from worker.lease import RETRY_SECONDS
from worker.workspace import open_left

PAUSE = 9.0
"""Pause after a copy, as a multiple of the seconds that it took: a tenth of the time at most is spent on copies."""
WATCH_SECONDS = 0.05

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class CheckpointCopies:
    """Copies checkpoints from a thread of its own, one after the other and always the newest, while the engine goes on.

    A checkpoint that is replaced before its turn comes is left out; the worker's own disk has it all the same.
    """

    def __init__(self, claim: Claim, folder: Path, log: Log) -> None:
        self._claim = claim
        self._folder = folder
        self._log = log
        self._newest: Checkpoint | None = None
        """The next one to copy; None when all are copied."""
        self._changed = threading.Condition()
        self._hurried = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint, which lies whole in the folder, when its turn comes."""
        with self._changed:
            self._newest = checkpoint
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoint-copies", daemon=True)
            self._thread.start()

    def finish(self, may_wait: Callable[[], bool]) -> None:
        """Copy the newest without a pause, now that the engine has ended, while `may_wait` is true."""
        with self._changed:
            self._hurried = True
            self._changed.notify()
        while self._newest is not None and self._thread is not None and self._thread.is_alive() and may_wait():
            self._thread.join(WATCH_SECONDS)
        if self._newest is not None:
            self._log.warning("checkpoint %s is on this worker's disk alone", self._newest.file)

    def close(self) -> None:
        """Copy no more. A half copy is swept later."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _work(self) -> None:
        while checkpoint := self._next():
            begun = time.monotonic()
            try:
                self._copy(checkpoint)
            except LostLease:
                return
            except (*LOST, BlobGone) as error:
                self._log.warning("checkpoint %s is not in the database yet: %s", checkpoint.file, why(error))
                self._pause(RETRY_SECONDS, in_hurry=RETRY_SECONDS)
                continue
            except FileNotFoundError:
                pass  # the engine has dropped it for newer ones
            except (OSError, ValueError) as error:
                self._log.error("checkpoint %r is not copied: %s", checkpoint.file, error)
            except Exception:  # the next one may be copied all the same
                self._log.exception("checkpoint %r is not copied", checkpoint.file)
            with self._changed:
                if self._newest is checkpoint:
                    self._newest = None
            self._pause(PAUSE * (time.monotonic() - begun), in_hurry=0)

    def _next(self) -> Checkpoint | None:
        """Wait for a checkpoint to copy; None once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._newest is not None)
            return None if self._closed else self._newest

    def _pause(self, seconds: float, *, in_hurry: float) -> None:
        begun = time.monotonic()
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._hurried, seconds)
            if self._hurried:
                self._changed.wait_for(lambda: self._closed, max(0.0, begun + in_hurry - time.monotonic()))

    def _copy(self, checkpoint: Checkpoint) -> None:
        if Path(checkpoint.file).name != checkpoint.file:
            raise ValueError(f"{checkpoint.file!r} is not the name of a file in the checkpoints' folder")
        with open_left(self._folder / checkpoint.file) as file:
            written = write_blob(file, most_stored_bytes(self._claim.project_id))
        with transaction() as session:
            service.store_checkpoint(session, self._claim, checkpoint, written)
        metrics.count_file("checkpoint", written.size)
