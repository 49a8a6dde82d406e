"""One attempt at one job, from the claim to the state that it leaves behind."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from retort.engine.interrupt import (
    DISK_FULL,
    FINISHED,
    IMPOSSIBLE,
    MEMORY_RAN_OUT,
    NOTHING_TO_KEEP,
    OUT_OF_MEMORY,
    STOPPED,
    UNREACHABLE,
)
from service.blobs.repository import BlobDraft, BlobGone, write_blob
from service.claims import service
from service.claims.repository import LostLease
from service.claims.service import Directive as Order
from service.claims.service import NewArtifact, Trouble
from service.db import transaction
from service.jobs.models import TERMINAL, State, Wanted
from service.kinds import EFFECTS
from service.logs import logger_for
from service.settings import Settings
from worker import metrics as meters
from worker.checkpoints import CheckpointCopies
from worker.engine_process import Child, End
from worker.event_buffer import EventBuffer
from worker.inputs import Cache, InputMissing
from worker.lease import DATABASE_AWAY, RETRY_SECONDS, Lease, why
from worker.workspace import Desk, WeightsMissing, open_left

LISTEN_SECONDS = 0.1
LEAVE_SECONDS = 28.0
"""How long after its engine was asked to stop a stopping worker has put the job back, with its last checkpoint if that
can be copied in time."""
COPY_SECONDS = 600.0
"""How long the last checkpoint may take to be copied where the worker goes on: the job is held meanwhile."""

LEAVE = frozenset({Order.pause, Order.cancel, Order.expire})
"""Orders by which the engine leaves a checkpoint and goes."""
MACHINES_FAULT = {UNREACHABLE: "unreachable", MEMORY_RAN_OUT: "memory_ran_out", DISK_FULL: "disk_full"}
"""Ends of an engine that another attempt may not meet again, and what each is called."""

Given = TypeVar("Given")


class Unwanted(Exception):
    """The job is not to be begun any more: its owner, its deadline or a stopping worker wants that."""


class Attempt:
    """Runs the engine for a claim while the lease lasts, and writes down how that went."""

    def __init__(self, lease: Lease, child: Child, settings: Settings, stopping: threading.Event) -> None:
        self._claim = lease.claim
        self._lease = lease
        self._child = child
        self._settings = settings
        self._stopping = stopping
        self._desk = Desk.of(settings.storage, self._claim)
        self._cache = Cache(settings.storage / "inputs", settings.inputs_bytes)
        self._transcript = EventBuffer()
        self._asked_at: float | None = None
        """When the engine was asked to stop; None while nobody asked it to."""
        self._told_to_finish = self._claim.wanted is Wanted.stop
        self._log = logger_for(__name__, job=self._claim.job_id, attempt=self._claim.attempt, fence=self._claim.fence)
        self._keeper = CheckpointCopies(self._claim, self._desk.checkpoints, self._log)

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
            self._keeper.close()
            self._child.end()
            self._desk.clear(ended=state in TERMINAL)
        if state is None:
            meters.ended("abandoned")
        else:
            self._log.info("leaves the job %s", state.value)

    def _work(self) -> State:
        try:
            self._insist(lambda: self._desk.set_up(self._claim, self._cache, self._check_wanted))
            order = self._order()
        except Unwanted:
            return self._leave()
        except (WeightsMissing, InputMissing, BlobGone) as missing:
            cause = "input_missing" if isinstance(missing, InputMissing) else "weights_missing"
            return self._conclude(service.fail, Trouble("spec", cause, str(missing)))
        except OSError as error:
            detail = f"the job's folder could not be set up: {error.strerror}"
            return self._conclude(service.retry, Trouble("machine", "disk", detail))
        self._child.tell(order)
        self._follow()
        end = self._child.end()
        self._insist(self._write_transcript)
        return self._settle(end)

    def _check_wanted(self) -> None:
        """Raise Unwanted when the job is not to be begun any more, and LostLease."""
        self._lease.check()
        if self._stopping.is_set() or self._lease.order in LEAVE:
            raise Unwanted

    def _leave(self) -> State:
        """Give up a job whose engine has not begun."""
        if self._lease.order is Order.cancel:
            return self._conclude(service.cancel)
        if self._lease.order is Order.expire:
            return self._conclude(service.expire)
        return self._conclude(service.hand_back)

    def _order(self) -> str:
        # A project's own: how long a job takes would tell others what was trained before.
        store = self._settings.storage / "teacher_outputs" / self._claim.project_id
        data_roots = [*self._settings.data_roots, *self._desk.fetched()]
        order = {
            "kind": self._claim.kind,
            "spec": self._claim.spec,
            "directory": str(self._desk.directory),
            "checkpoints": str(self._desk.checkpoints),
            "weights": str(self._desk.weights),
            "data_roots": [str(root) for root in data_roots],
            "checkpoint_seconds": self._settings.checkpoint_seconds,
            "store": str(store),
            "store_bytes": self._settings.teacher_outputs_bytes,
            "run": str(self._claim.fence),
            "finish": self._told_to_finish,
        }
        if self._child.cell is not None:
            places = [self._desk.directory, self._desk.checkpoints, store]
            order["confine"] = self._child.cell.admit(places)
        return json.dumps(order)

    def _follow(self) -> None:
        """Listen until the engine has ended, writing down what it says and steering it."""
        while not self._child.finished():
            if (line := self._child.read(LISTEN_SECONDS)) and (saved := self._transcript.hear(line)):
                self._keeper.hear(saved)
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
            order = self._transcript.write(session, self._claim)
        self._transcript.written()
        self._lease.order = order

    def _steer(self) -> None:
        """Tell the engine what the job's owner, its deadline or a stopping worker wants; kill it when it takes too
        long to leave."""
        order = self._lease.order
        if self._asked_at is None and (self._stopping.is_set() or order in LEAVE):
            self._log.info("the engine is asked to stop")
            self._asked_at = time.monotonic()
            self._child.ask_to_stop()
        if self._asked_at is not None and time.monotonic() >= self._asked_at + self._settings.grace_seconds:
            self._child.kill()
        if order is Order.stop and not self._told_to_finish:
            self._log.info("the engine is told to finish with what it has")
            self._told_to_finish = True
            self._child.tell("finish")

    def _settle(self, end: End) -> State:
        asked = self._asked_at is not None
        if asked and self._lease.order is Order.cancel:
            return self._conclude(service.cancel)
        if end.code == FINISHED:
            return self._deliver()
        if end.code == IMPOSSIBLE:
            return self._conclude(service.fail, Trouble("spec", "impossible", self._refusal(end)))
        if end.code == OUT_OF_MEMORY:
            return self._conclude(service.fail, Trouble("spec", "out_of_memory", self._refusal(end)))
        if end.code == NOTHING_TO_KEEP:
            return self._conclude(service.cancel, self._refusal(end))
        if asked and self._lease.order is Order.expire:
            return self._conclude(service.expire)
        self._keeper.finish(self._may_wait_since(time.monotonic()))
        if asked:
            return self._conclude(service.hand_back)
        if end.code in MACHINES_FAULT:
            return self._conclude(service.retry, Trouble("machine", MACHINES_FAULT[end.code], self._refusal(end)))
        return self._conclude(service.retry, trouble_of(end))

    def _may_wait_since(self, begun: float) -> Callable[[], bool]:
        """Whether the last checkpoint may still be copied."""

        def may_wait() -> bool:
            self._lease.check()
            if self._stopping.is_set():
                return time.monotonic() < (begun if self._asked_at is None else self._asked_at) + LEAVE_SECONDS
            return time.monotonic() < begun + COPY_SECONDS

        return may_wait

    def _deliver(self) -> State:
        """Store the files that the engine left, then end the job with all of them at once."""
        try:
            files = [
                NewArtifact(shipped.name, shipped.network, shipped.media_type, self._store(file))
                for shipped, file in self._desk.shipped()
            ]
        except (OSError, ValueError) as error:
            return self._conclude(service.retry, Trouble("machine", "broken_result", f"what the engine left: {error}"))
        return self._conclude(service.succeed, files, EFFECTS)

    def _store(self, path: Path) -> BlobDraft:
        def store() -> BlobDraft:
            with open_left(path) as file:
                return write_blob(file)

        written = self._insist(store)
        meters.stored("artifact", written.size)
        return written

    def _refusal(self, end: End) -> str:
        return self._transcript.refusal or end.last_words

    def _conclude(self, step: Callable[..., State], *arguments: Any) -> State:
        """Take the job's last step, in a transaction, however long the database keeps us waiting."""

        def write() -> State:
            with transaction() as session:
                return step(session, self._claim, *arguments)

        state = self._lease.conclude(lambda: self._insist(write))
        meters.ended(state.value, *(each.cause for each in arguments if isinstance(each, Trouble)))
        return state

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
