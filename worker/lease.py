"""The lease of a job: renewed while the engine works; when it cannot be renewed, the engine is killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from sqlalchemy.orm import Session

from service.claims import service
from service.claims.repository import Claim, LostLease
from service.claims.service import Directive
from service.db import LOST, transaction, why
from service.logs import logger_for
from worker import metrics

RETRY_SECONDS = 1.0
WATCH_SECONDS = 0.25
LEAVE_SECONDS = 5.0
"""Seconds to wait at the end for a renewal that the database keeps waiting."""

Result = TypeVar("Result")


def boottime() -> float:
    """Seconds by a clock that is never set and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Lease:
    """Renews a claim from a thread of its own; calls `on_loss` as soon as the job may belong to another worker.

    It counts from before the last renewal that succeeded, so it always ends before the database's own count does.
    A second thread, which never waits for the database, watches over that end.
    """

    def __init__(
        self,
        claim: Claim,
        *,
        seconds: float,
        every_seconds: float,
        claimed_at: float,
        on_loss: Callable[[], None],
        also: Callable[[Session], None],
    ) -> None:
        self.claim = claim
        self._log = logger_for(__name__, job=claim.job_id, attempt=claim.attempt, fence=claim.fence)
        self.directive = Directive(claim.wanted)
        """The job's directive as of the last renewal."""
        self._seconds = seconds
        self._every_seconds = every_seconds
        self._ends_at = claimed_at + seconds
        self._on_loss = on_loss
        self._also = also
        self._lost = threading.Event()
        self._released = threading.Event()
        self._writing = threading.Lock()
        self._threads = [
            threading.Thread(target=self._keep_renewing, name="lease-renewal", daemon=True),
            threading.Thread(target=self._watch, name="lease-watch", daemon=True),
        ]

    def __enter__(self) -> Lease:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        for thread in self._threads:
            thread.join(LEAVE_SECONDS)

    def check(self) -> None:
        """Raise LostLease when nothing may be written any more."""
        if self._lost.is_set():
            raise LostLease(f"the lease of job {self.claim.job_id} under fence {self.claim.fence} has ended")

    def wait(self, seconds: float) -> None:
        """Wait that long, or until the lease is lost."""
        self._lost.wait(seconds)

    def conclude(self, write: Callable[[], Result]) -> Result:
        """Do the job's last write; no renewal comes during it or after it."""
        with self._writing:
            result = write()
            self._released.set()
        return result

    def _keep_renewing(self) -> None:
        pause = self._every_seconds
        while not self._released.wait(pause):
            with self._writing:
                if self._released.is_set():
                    return
                pause = self._every_seconds if self._renew() else min(RETRY_SECONDS, self._every_seconds)

    def _renew(self) -> bool:
        before = boottime()
        try:
            with transaction() as session:
                self.directive = service.renew(session, self.claim, self._seconds)
                self._also(session)
                self.check()  # after a long wait for the database the job was given up, and is not taken again
        except LostLease as lost:
            self._lose(str(lost))
            self._released.set()
        except LOST as error:
            self._log.warning("the lease was not renewed: %s", why(error))
            metrics.count_renewal("failed")
            return False
        else:
            self._ends_at = before + self._seconds
            metrics.count_renewal("ok")
        return True

    def _watch(self) -> None:
        while not self._released.wait(WATCH_SECONDS):
            if boottime() >= self._ends_at:
                self._lose(f"the lease of job {self.claim.job_id} could not be renewed in {self._seconds:g} s")
                return

    def _lose(self, reason: str) -> None:
        if not self._lost.is_set():
            self._lost.set()
            metrics.count_renewal("lost")
            self._log.error("%s; the engine is killed and nothing more is written", reason)
            self._on_loss()
