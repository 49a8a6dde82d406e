"""The worker's agent: waits for a wake-up or for a while, then claims and runs jobs until none is left."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from uuid import uuid4

from sqlalchemy.orm import Session

from service.audit.repository import sweep as forget_old
from service.blobs.repository import sweep
from service.claims import service
from service.claims.repository import Claim
from service.db import LOST, transaction, why
from service.retention.service import sweep_old
from service.settings import Settings, get_settings
from service.uploads.service import sweep_uploads
from service.workers import repository
from service.workers.repository import Machine
from worker import machine, metrics
from worker.attempt import Attempt
from worker.engine_process import ENGINE, EngineProcess
from worker.lease import Lease, boottime
from worker.sandbox import Sandbox, log_sandbox, prepare, sweep_scratch
from worker.workspace import sweep_folders

SWEEP_SECONDS = 600.0
WARM_UP_SECONDS = 60.0
"""Seconds for which a job has the machine to itself before the next engine is warmed, which imports torch."""
SILENT_WORKER_SECONDS = 86_400.0
"""Seconds for which a worker that died without signing off stays in the table."""

log = logging.getLogger(__name__)


class Agent:
    """One worker: a thread that runs one job at a time, with one engine kept warm in advance."""

    def __init__(self, engine: Sequence[str] = ENGINE, files: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.engine = engine
        """The command that starts an engine."""
        self.files = files
        """Files that engines may use besides those of any engine, by the fields of `retort.order.FileRights`."""
        self._sandbox: Sandbox | None = None
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._warm: EngineProcess | None = None
        self._warming = threading.Lock()
        self._job_id: str | None = None
        self._machine = Machine()
        self._sweep_at = 0.0
        self._thread = threading.Thread(target=self._run, name="agent", daemon=True)

    def start(self) -> None:
        """Begin to look for jobs."""
        self._thread.start()

    def wake_up(self) -> None:
        """Look for jobs now."""
        self._woken.set()

    def stop(self) -> None:
        """Take no more jobs, and put the running one back with a checkpoint; returns at once."""
        self._stopping.set()
        self._woken.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait until it has stopped; returns whether it has."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        settings = get_settings()
        log.info("worker %s looks for jobs", self.worker_id)
        try:
            while not self._stopping.is_set():
                self._run_waiting(settings)
                self._woken.wait(settings.look_seconds * random.uniform(0.75, 1.25))
                self._woken.clear()
        finally:
            with self._warming:
                if self._warm is not None:
                    self._warm.end()
            self._sign_off()
            log.info("worker %s has stopped", self.worker_id)

    def _run_waiting(self, settings: Settings) -> None:
        """Run jobs until none is left, with an engine kept warm for the next. Never raises, as the loop goes on."""
        try:
            self._warm_up()
            self._sweep_when_due(settings)
            while not self._stopping.is_set() and self._run_one(settings):
                self._warm_up()
                self._sweep_when_due(settings)
        except LOST as error:
            log.warning("the database is away: %s", why(error))
        except Exception:
            log.exception("the worker failed outside of any job; it goes on")

    def _run_one(self, settings: Settings) -> bool:
        """Claim a job and run it; returns whether there was one."""
        self._machine = machine.measure(settings)
        before = boottime()
        with transaction() as session:
            self._report(session)
            claim = service.claim(session, self.worker_id, settings.lease_seconds, self._machine)
        if claim is None:
            return False
        metrics.count_claim()
        self._job_id = claim.job_id
        try:
            self._run_claimed(claim, before, settings)
        finally:
            self._job_id = None
        return True

    def _run_claimed(self, claim: Claim, claimed_at: float, settings: Settings) -> None:
        engine = self._take_warm()
        lease = Lease(
            claim,
            seconds=settings.lease_seconds,
            every_seconds=min(settings.lease_seconds / 3, settings.look_seconds),
            claimed_at=claimed_at,
            on_loss=engine.kill,
            also=self._report,
        )
        soon = threading.Timer(WARM_UP_SECONDS, self._warm_up)
        soon.daemon = True
        soon.start()
        try:
            with lease:
                Attempt(lease, engine, settings, self._stopping).run()
        finally:
            soon.cancel()
            engine.end()

    def _warm_up(self) -> None:
        with self._warming:
            if self._warm is None and not self._stopping.is_set():
                self._warm = self._new_engine()

    def _take_warm(self) -> EngineProcess:
        with self._warming:
            engine, self._warm = self._warm, None
        if engine is not None and engine.exited():
            log.warning("the warm engine had ended: %s", engine.end())
            engine = None
        return engine or self._new_engine()

    def _new_engine(self) -> EngineProcess:
        if self._sandbox is None:
            self._sandbox = prepare(get_settings(), self.files)
            log_sandbox(self._sandbox)
        return EngineProcess(self.engine, self._sandbox.cell())

    def _report(self, session: Session) -> None:
        repository.see(session, self.worker_id, host=socket.gethostname(), job_id=self._job_id, machine=self._machine)
        metrics.note_alive()

    def _sign_off(self) -> None:
        try:
            with transaction() as session:
                repository.forget(session, self.worker_id)
        except LOST as error:
            log.warning("the database is away, so this worker stays in its table for a while: %s", why(error))

    def _sweep_when_due(self, settings: Settings) -> None:
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + SWEEP_SECONDS
        uploads = _swept(sweep_uploads)
        old = _swept(sweep_old)
        blobs = _swept(lambda: sweep(settings.sweep_grace_seconds))
        _swept(lambda: forget_old(settings.audit_days))
        folders = _swept(lambda: sweep_folders(settings.storage, settings.sweep_grace_seconds))
        _swept(lambda: sweep_scratch(settings.storage))
        with transaction() as session:
            repository.forget_silent(session, SILENT_WORKER_SECONDS)
        log.info("swept %d uploads, %d old things, %d blobs and %d folders", uploads, old, blobs, folders)


def _swept(sweep_one: Callable[[], int | None]) -> int:
    """The number of things that a sweep removed. One that fails holds up no other, and is logged."""
    try:
        return sweep_one() or 0
    except LOST:
        raise
    except Exception:
        log.exception("a sweep failed; the others go on")
        return 0
