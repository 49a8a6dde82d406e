"""The loop: wait for the bell or for a while, then claim and run jobs until none is left."""

from __future__ import annotations

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from uuid import uuid4

from sqlalchemy.orm import Session

from service.audit.repository import sweep as forget_old
from service.blobs.repository import sweep
from service.claims import service
from service.claims.repository import Claim
from service.db import transaction
from service.retention.service import sweep_old
from service.settings import Settings, get_settings
from service.uploads.service import sweep_uploads
from service.workers import repository
from service.workers.repository import Machine
from worker import machine
from worker import metrics as meters
from worker.attempt import Attempt
from worker.engine_process import ENGINE, Child
from worker.lease import DATABASE_AWAY, Lease, boottime, why
from worker.sandbox import Sandbox, prepare, sweep_scratch, tell
from worker.workspace import sweep_folders

SWEEP_SECONDS = 600.0
WARM_UP_SECONDS = 60.0
"""How long a job has the machine to itself before the next engine is warmed; importing torch takes its while."""
SILENT_WORKER_SECONDS = 86_400.0
"""How long a worker that died without a word stays in the table."""

log = logging.getLogger(__name__)


class Shell:
    """One worker: a thread that runs one job at a time, with one engine kept warm in advance."""

    def __init__(self, engine: Sequence[str] = ENGINE, files: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.engine = engine
        """The command that starts an engine."""
        self.files = files
        """What it may read and write besides what every engine may, by the words of `retort.confine`."""
        self._sandbox: Sandbox | None = None
        self.worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._bell = threading.Event()
        self._stopping = threading.Event()
        self._warm: Child | None = None
        self._warming = threading.Lock()
        self._job_id: str | None = None
        self._machine = Machine()
        self._sweep_at = 0.0
        self._thread = threading.Thread(target=self._run, name="loop", daemon=True)

    def start(self) -> None:
        """Begin to look for jobs."""
        self._thread.start()

    def look(self) -> None:
        """Look for jobs now."""
        self._bell.set()

    def stop(self) -> None:
        """Take no more jobs, and put the running one back with a checkpoint; returns at once."""
        self._stopping.set()
        self._bell.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait until it has stopped; whether it has."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        settings = get_settings()
        log.info("worker %s looks for jobs", self.worker_id)
        try:
            while not self._stopping.is_set():
                self._work_off(settings)
                self._bell.wait(settings.look_seconds * random.uniform(0.75, 1.25))
                self._bell.clear()
        finally:
            with self._warming:
                if self._warm is not None:
                    self._warm.end()
            self._leave()
            log.info("worker %s has stopped", self.worker_id)

    def _work_off(self, settings: Settings) -> None:
        """Run jobs until none is left, with an engine kept warm for the next; never raises, for the loop goes on."""
        try:
            self._warm_up()
            self._sweep_when_due(settings)
            while not self._stopping.is_set() and self._run_one(settings):
                self._warm_up()
                self._sweep_when_due(settings)
        except DATABASE_AWAY as error:
            log.warning("the database is away: %s", why(error))
        except Exception:
            log.exception("the worker failed outside of any job; it goes on")

    def _run_one(self, settings: Settings) -> bool:
        """Claim a job and run it; whether there was one."""
        self._machine = machine.look(settings)
        before = boottime()
        with transaction() as session:
            self._see(session)
            claim = service.claim(session, self.worker_id, settings.lease_seconds, self._machine)
        if claim is None:
            return False
        meters.claimed()
        self._job_id = claim.job_id
        try:
            self._run_claimed(claim, before, settings)
        finally:
            self._job_id = None
        return True

    def _run_claimed(self, claim: Claim, claimed_at: float, settings: Settings) -> None:
        child = self._take_warm()
        lease = Lease(
            claim,
            seconds=settings.lease_seconds,
            every_seconds=min(settings.lease_seconds / 3, settings.look_seconds),
            claimed_at=claimed_at,
            on_loss=child.kill,
            also=self._see,
        )
        soon = threading.Timer(WARM_UP_SECONDS, self._warm_up)
        soon.daemon = True
        soon.start()
        try:
            with lease:
                Attempt(lease, child, settings, self._stopping).run()
        finally:
            soon.cancel()
            child.end()

    def _warm_up(self) -> None:
        with self._warming:
            if self._warm is None and not self._stopping.is_set():
                self._warm = self._new_child()

    def _take_warm(self) -> Child:
        with self._warming:
            child, self._warm = self._warm, None
        if child is not None and child.exited():
            log.warning("the warm engine had ended: %s", child.end())
            child = None
        return child or self._new_child()

    def _new_child(self) -> Child:
        if self._sandbox is None:
            self._sandbox = prepare(get_settings(), self.files)
            tell(self._sandbox)
        return Child(self.engine, self._sandbox.cell())

    def _see(self, session: Session) -> None:
        repository.see(session, self.worker_id, host=socket.gethostname(), job_id=self._job_id, machine=self._machine)

    def _leave(self) -> None:
        try:
            with transaction() as session:
                repository.forget(session, self.worker_id)
        except DATABASE_AWAY as error:
            log.warning("the database is away and will notice late that this worker left: %s", why(error))

    def _sweep_when_due(self, settings: Settings) -> None:
        if time.monotonic() < self._sweep_at:
            return
        self._sweep_at = time.monotonic() + SWEEP_SECONDS
        uploads = sweep_uploads()
        old = sweep_old()
        blobs = sweep(settings.sweep_grace_seconds)
        forget_old(settings.audit_days)
        folders = sweep_folders(settings.storage, settings.sweep_grace_seconds)
        sweep_scratch(settings.storage)
        with transaction() as session:
            repository.forget_silent(session, SILENT_WORKER_SECONDS)
        log.info("swept %d uploads, %d old things, %d blobs and %d folders", uploads, old, blobs, folders)
