"""One attempt at one job, from the claim to the state that it leaves behind."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

from service.artifacts.repository import BlobGone, Written, write_blob
from service.db import transaction
from service.jobs.models import TERMINAL, State, Wanted
from service.settings import Settings
from service.workers import service
from service.workers.repository import LostLease
from service.workers.service import Made, Trouble
from worker.engine.interrupt import FINISHED, IMPOSSIBLE, OUT_OF_MEMORY, STOPPED
from worker.shell.child import Child, End
from worker.shell.desk import Desk, WeightsMissing
from worker.shell.lease import DATABASE_AWAY, RETRY_SECONDS, Lease, why
from worker.shell.transcript import Transcript

LISTEN_SECONDS = 0.1

Given = TypeVar("Given")


class Attempt:
    """Runs the engine for a claim while the lease lasts, and writes down how that went."""

    def __init__(self, lease: Lease, child: Child, settings: Settings, stopping: threading.Event) -> None:
        self._claim = lease.claim
        self._lease = lease
        self._child = child
        self._settings = settings
        self._stopping = stopping
        self._desk = Desk.of(settings.storage, self._claim)
        self._transcript = Transcript()
        self._kill_at: float | None = None
        """When the engine's time to stop is over; None while nobody asked it to."""
        named = {"job": self._claim.job_id, "attempt": self._claim.attempt}
        self._log = _OfAttempt(logging.getLogger(__name__), named)

    def run(self) -> None:
        """Run it to its end. Never raises: what goes wrong becomes the job's error."""
        state: State | None = None
        self._log.info("begins under fence %d", self._claim.fence)
        try:
            state = self._work()
        except LostLease as lost:
            self._log.error("abandoned: %s", lost)
        except Exception as error:
            self._log.exception("the worker failed")
            self._child.kill()
            state = self._blame_ourselves(error)
        finally:
            self._child.end()
            self._desk.clear(ended=state in TERMINAL)
        if state is not None:
            self._log.info("leaves the job %s", state.value)

    def _work(self) -> State:
        try:
            self._insist(lambda: self._desk.set_up(self._claim))
        except (WeightsMissing, BlobGone) as missing:
            return self._conclude(service.fail, Trouble("recipe", "weights_missing", str(missing)))
        self._child.tell(self._order())
        self._follow()
        end = self._child.end()
        self._insist(self._write_transcript)
        return self._settle(end)

    def _order(self) -> str:
        order = {
            "recipe": self._claim.recipe,
            "directory": str(self._desk.directory),
            "checkpoints": str(self._desk.checkpoints),
            "weights": str(self._desk.weights),
            "data_roots": [str(root) for root in self._settings.data_roots],
            "checkpoint_seconds": self._settings.checkpoint_seconds,
            # A project's own: how long a job takes would tell others what was trained before.
            "store": str(self._settings.storage / "teacher_outputs" / self._claim.project_id),
            "store_bytes": self._settings.teacher_outputs_bytes,
            "run": str(self._claim.fence),
        }
        return json.dumps(order)

    def _follow(self) -> None:
        """Listen until the engine has ended, writing down what it says and steering it."""
        while not self._child.finished():
            if line := self._child.read(LISTEN_SECONDS):
                self._transcript.hear(line)
            self._lease.check()
            if self._transcript.due():
                try:
                    self._write_transcript()
                except DATABASE_AWAY as error:
                    self._log.warning("the database is away, the engine goes on: %s", why(error))
                    self._transcript.put_off(RETRY_SECONDS)
            self._steer()

    def _write_transcript(self) -> None:
        with transaction() as session:
            wanted = self._transcript.write(session, self._claim)
        self._transcript.written()
        self._lease.wanted = wanted

    def _steer(self) -> None:
        """Ask the engine to stop when its job's owner or this worker's wants that; kill it when it takes too long."""
        if self._kill_at is None and (self._stopping.is_set() or self._lease.wanted is Wanted.cancel):
            self._log.info("the engine is asked to stop")
            self._kill_at = time.monotonic() + self._settings.grace_seconds
            self._child.ask_to_stop()
        if self._kill_at is not None and time.monotonic() >= self._kill_at:
            self._child.kill()

    def _settle(self, end: End) -> State:
        asked = self._kill_at is not None
        if asked and self._lease.wanted is Wanted.cancel:
            return self._conclude(service.cancel)
        if end.code == FINISHED:
            return self._deliver()
        if end.code == IMPOSSIBLE:
            return self._conclude(service.fail, Trouble("recipe", "impossible", self._refusal(end)))
        if end.code == OUT_OF_MEMORY:
            return self._conclude(service.fail, Trouble("recipe", "out_of_memory", self._refusal(end)))
        if asked:
            return self._conclude(service.hand_back)
        return self._conclude(service.retry, trouble_of(end))

    def _deliver(self) -> State:
        """Store the files that the engine left, then end the job with all of them at once."""
        try:
            files = [
                Made(shipped.name, shipped.network, shipped.media_type, self._store(file))
                for shipped, file in self._desk.shipped()
            ]
        except (OSError, ValueError) as error:
            return self._conclude(service.retry, Trouble("machine", "broken_result", f"what the engine left: {error}"))
        return self._conclude(service.succeed, files)

    def _store(self, path: Path) -> Written:
        def store() -> Written:
            with path.open("rb") as file:
                return write_blob(file)

        return self._insist(store)

    def _refusal(self, end: End) -> str:
        return self._transcript.refusal or end.last_words

    def _conclude(self, step: Callable[..., State], *arguments: Any) -> State:
        """Take the job's last step, in a transaction, however long the database keeps us waiting."""

        def write() -> State:
            with transaction() as session:
                return step(session, self._claim, *arguments)

        return self._lease.conclude(lambda: self._insist(write))

    def _insist(self, action: Callable[[], Given]) -> Given:
        """Do something that needs the database, again and again while it is away and the lease is ours."""
        while True:
            self._lease.check()
            try:
                return action()
            except DATABASE_AWAY as error:
                self._log.warning("the database is away, trying again: %s", why(error))
                self._lease.wait(RETRY_SECONDS)

    def _blame_ourselves(self, error: Exception) -> State | None:
        # The error's own words may hold what is none of the user's business; the log has them.
        detail = "the worker failed through a fault of its own; its log says more"
        try:
            return self._conclude(service.retry, Trouble("service", type(error).__name__, detail))
        except Exception:
            self._log.exception("the job is left to its lease's end")
            return None


class _OfAttempt(logging.LoggerAdapter[logging.Logger]):
    """Begins every line with the job and the attempt."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        named = self.extra or {}
        return f"job {named['job']} attempt {named['attempt']}: {msg}", kwargs


def trouble_of(end: End) -> Trouble:
    """What a crash is called."""
    if end.code < 0:
        cause = signal.Signals(-end.code).name
        hint = ", which is what the system sends when its memory runs out" if cause == "SIGKILL" else ""
        said = f"the engine was ended by {cause}{hint}"
    elif end.code == STOPPED:
        cause, said = "stopped", "the engine stopped without having been asked to"
    else:
        cause, said = f"exit_{end.code}", f"the engine crashed with exit code {end.code}"
    return Trouble("machine", cause, f"{said}: {end.last_words}" if end.last_words else said)
