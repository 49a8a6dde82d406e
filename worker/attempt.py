"""One attempt at one job, from the claim to the job's next state."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4

from retort.engine.interrupt import (
    DISK_FULL,
    FINISHED,
    IMPOSSIBLE,
    MACHINE_FAILED,
    MEMORY_RAN_OUT,
    NOTHING_TO_KEEP,
    OUT_OF_MEMORY,
    STOPPED,
    STUDENTS_FAILED,
    UNREACHABLE,
)
from retort.order import CacheDirectory, Order, Paths
from service.blobs.repository import BlobDraft, BlobGone, write_blob
from service.claims import service
from service.claims.records import InvalidRecord
from service.claims.repository import LostLease
from service.claims.service import Directive, NewArtifact, Trouble
from service.db import LOST, is_unwritable, transaction, why
from service.jobs.models import TERMINAL, State, Wanted
from service.kinds import EFFECTS
from service.logs import logger_for
from service.settings import Settings
from service.usage.service import most_stored_bytes
from worker import metrics
from worker.checkpoints import CheckpointCopies
from worker.engine_process import End, EngineProcess
from worker.event_buffer import EventBuffer, plain
from worker.inputs import InputCache, InputMissing
from worker.lease import RETRY_SECONDS, Lease
from worker.workspace import ShippedFile, WeightsMissing, Workspace, open_left

READ_SECONDS = 0.1
LEAVE_SECONDS = 28.0
"""Seconds after SIGTERM to the engine within which a stopping worker has put the job back, with its last checkpoint if
that can be copied in time."""
COPY_SECONDS = 600.0
"""Seconds that a copy of the last checkpoint may take where the worker goes on; the job is held meanwhile."""

LEAVE = frozenset({Directive.pause, Directive.cancel, Directive.expire})
"""Orders on which the engine leaves a checkpoint and ends."""
MACHINE_CAUSES = {
    UNREACHABLE: "unreachable",
    MEMORY_RAN_OUT: "memory_ran_out",
    DISK_FULL: "disk_full",
    MACHINE_FAILED: "machine_failed",
}
"""Causes by exit codes of the engine that another attempt may not meet again."""
STUCK_SECONDS = 300.0
"""Seconds for which the database may refuse the same step while it renews the lease, before the attempt is given up."""

OUT_OF_TIME = "a file kept one call of a library busy beyond its bound of time, and the engine was ended"
"""Sentence where the engine could not say it (see `retort.engine.watchdog`); another attempt would meet the same."""

Result = TypeVar("Result")


class Withdrawal(Exception):
    """The job is not to be begun any more, by its owner, its deadline or a stopping worker."""


class Attempt:
    """Runs the engine for a claim while the lease lasts, and records how that went."""

    def __init__(self, lease: Lease, engine: EngineProcess, settings: Settings, stopping: threading.Event) -> None:
        self._claim = lease.claim
        self._lease = lease
        self._engine = engine
        self._settings = settings
        self._stopping = stopping
        self._workspace = Workspace.of(settings.storage, self._claim)
        self._cache = InputCache(settings.storage / "inputs", settings.inputs_bytes)
        self._events = EventBuffer()
        self._terminated_at: float | None = None
        """Time of SIGTERM to the engine, by the monotonic clock; None before."""
        self._finish_sent = self._claim.wanted is Wanted.stop
        self._log = logger_for(__name__, job=self._claim.job_id, attempt=self._claim.attempt, fence=self._claim.fence)
        self._copies = CheckpointCopies(self._claim, self._workspace.checkpoints, self._log)
        self._refused_since: float | None = None
        """Since when, by the monotonic clock, the database has taken no events."""

    def run(self) -> None:
        """Run it to its end. Never raises: a failure becomes the job's error."""
        state: State | None = None
        self._log.info("begins under fence %d", self._claim.fence)
        try:
            state = self._run()
        except LostLease as lost:
            self._log.error("abandoned: %s", lost)
        except Exception as error:
            self._log.exception("the worker failed")
            self._engine.kill()
            state = self._report_own_fault(error)
        finally:
            self._copies.close()
            self._engine.end()
            self._workspace.clear(ended=state in TERMINAL)
        if state is None:
            metrics.count_attempt("abandoned")
        else:
            self._log.info("leaves the job %s", state.value)

    def _run(self) -> State:
        try:
            self._retry(lambda: self._workspace.prepare(self._claim, self._cache, self._check_wanted))
            order = self._make_order()
        except Withdrawal:
            return self._give_up()
        except (WeightsMissing, InputMissing, BlobGone) as missing:
            cause = "input_missing" if isinstance(missing, InputMissing) else "weights_missing"
            return self._conclude(service.fail, Trouble("spec", cause, str(missing)))
        except OSError as error:
            detail = f"the job's folder could not be set up: {error.strerror}"
            return self._conclude(service.retry, Trouble("machine", "disk", detail))
        self._engine.send(order.model_dump_json())
        try:
            self._follow()
            end = self._engine.end()
            while not self._events.empty():
                self._retry(self._write_events, unless=Directive.cancel)
            return self._settle(end)
        except Withdrawal:
            return self._give_up()
        except Exception as error:
            if not (isinstance(error, InvalidRecord) or is_unwritable(error)):
                raise
            self._engine.kill()
            return self._conclude(service.fail, Trouble("spec", "invalid_record", self._objection(error)))

    def _objection(self, error: Exception) -> str:
        """One sentence why that of the engine cannot be stored."""
        if isinstance(error, InvalidRecord):
            return str(error)
        return f"what the engine reported cannot be stored; {self._logged(why(error))}"

    def _check_wanted(self) -> None:
        """Raise Withdrawal when the job is not to be begun any more, and LostLease when it is not ours."""
        self._lease.check()
        if self._stopping.is_set() or self._lease.directive in LEAVE:
            raise Withdrawal

    def _give_up(self) -> State:
        """End or put back a job whose engine has not begun."""
        if self._lease.directive is Directive.cancel:
            return self._conclude(service.cancel)
        if self._lease.directive is Directive.expire:
            return self._conclude(service.expire)
        return self._conclude(service.hand_back)

    def _make_order(self) -> Order:
        # A project's own: the time that a job takes would tell others what was trained before.
        teacher_cache = self._settings.storage / "teacher_outputs" / self._claim.project_id
        workspace, cell = self._workspace, self._engine.cell
        paths = Paths(
            directory=workspace.directory,
            checkpoints=workspace.checkpoints,
            weights=workspace.weights,
            data_roots=(*self._settings.data_roots, *workspace.fetched()),
            run=str(self._claim.fence),
            checkpoint_seconds=self._settings.checkpoint_seconds,
            teacher_cache=CacheDirectory(path=teacher_cache, max_bytes=self._settings.teacher_cache_bytes),
        )
        return Order(
            kind=self._claim.kind,
            spec=self._claim.spec,
            paths=paths,
            finish=self._finish_sent,
            confine=cell.admit([paths.directory, paths.checkpoints, teacher_cache]) if cell else None,
        )

    def _follow(self) -> None:
        """Read and write the engine's output until it has ended, and pass orders on to it."""
        while not self._engine.finished():
            if self._events.full() and not self._engine.exited():
                self._lease.wait(READ_SECONDS)  # the engine waits with the next line, too
            elif (line := self._engine.read(READ_SECONDS)) and (checkpoint := self._events.add(line)):
                self._copies.add(checkpoint)
            self._lease.check()
            if self._events.due():
                self._try_to_write_events()
            self._steer()

    def _try_to_write_events(self) -> None:
        """Write events, or later where the database does not take them."""
        try:
            self._write_events()
            self._refused_since = None
        except LOST as error:
            self._refused_since = self._refused_since or time.monotonic()
            self._check_stuck(self._refused_since, error)
            self._log.warning("the database takes no events, the engine goes on: %s", why(error))
            self._events.postpone(RETRY_SECONDS)

    def _check_stuck(self, since: float, error: Exception) -> None:
        """Raise the error where the database has refused something for too long, though the lease goes on."""
        if time.monotonic() >= since + max(STUCK_SECONDS, 2 * self._settings.lease_seconds):
            raise error

    def _write_events(self) -> None:
        with transaction() as session:
            directive = self._events.write(session, self._claim)
        self._events.clear()
        self._lease.directive = directive

    def _steer(self) -> None:
        """Pass on to the engine what the job's owner, its deadline or a stopping worker want; kill it once its grace is
        over."""
        directive = self._lease.directive
        if self._terminated_at is None and (self._stopping.is_set() or directive in LEAVE):
            self._log.info("the engine is asked to stop")
            self._terminated_at = time.monotonic()
            self._engine.terminate()
        if self._terminated_at is not None and time.monotonic() >= self._terminated_at + self._settings.grace_seconds:
            self._engine.kill()
        if directive is Directive.stop and not self._finish_sent:
            self._log.info("the engine is asked to finish with what it has")
            self._finish_sent = True
            self._engine.send("finish")

    def _settle(self, end: End) -> State:
        terminated = self._terminated_at is not None
        if terminated and self._lease.directive is Directive.cancel:
            return self._conclude(service.cancel)
        if end.code == FINISHED:
            return self._store_files()
        if end.code == STUDENTS_FAILED:
            return self._store_files(Trouble("spec", "students_failed", self._refusal(end)))
        if end.code == IMPOSSIBLE:
            return self._conclude(service.fail, Trouble("spec", "impossible", self._refusal(end)))
        if end.code == -signal.SIGALRM:
            return self._conclude(service.fail, Trouble("spec", "impossible", OUT_OF_TIME))
        if end.code == OUT_OF_MEMORY:
            return self._conclude(service.fail, Trouble("spec", "out_of_memory", self._refusal(end)))
        if end.code == NOTHING_TO_KEEP:
            return self._conclude(service.cancel, self._refusal(end))
        if terminated and self._lease.directive is Directive.expire:
            return self._conclude(service.expire)
        self._copies.finish(self._copy_deadline(time.monotonic()))
        if terminated:
            return self._conclude(service.hand_back)
        if end.code in MACHINE_CAUSES:
            return self._conclude(service.retry, Trouble("machine", MACHINE_CAUSES[end.code], self._refusal(end)))
        return self._conclude(service.retry, self._crash(end))

    def _copy_deadline(self, begun: float) -> Callable[[], bool]:
        """A function that is true while the last checkpoint may still be copied."""

        def may_wait() -> bool:
            self._lease.check()
            if self._stopping.is_set():
                since = begun if self._terminated_at is None else self._terminated_at
                return time.monotonic() < since + LEAVE_SECONDS
            return time.monotonic() < begun + COPY_SECONDS

        return may_wait

    def _store_files(self, trouble: Trouble | None = None) -> State:
        """Store the engine's files, then end the job with all of them at once; it fails where there is a trouble."""
        try:
            files = self._workspace.shipped()
            self._check_room(files)
            stored = [
                NewArtifact(shipped.name, shipped.network, shipped.media_type, self._store(file))
                for shipped, file in files
            ]
        except OSError as error:
            detail = f"the engine left no valid result: {error.strerror}; {self._logged(str(error))}"
            return self._conclude(service.retry, Trouble("machine", "broken_result", detail))
        except ValueError as error:
            detail = f"the engine left no valid result: {plain(str(error))}"
            return self._conclude(service.fail, Trouble("spec", "broken_result", detail))
        if trouble is not None:
            return self._conclude(service.fail, trouble, stored)
        return self._conclude(service.succeed, stored, EFFECTS)

    def _check_room(self, files: Sequence[tuple[ShippedFile, Path]]) -> None:
        """Raise ValueError where the files have more bytes than the whole project may store."""
        size = sum(file.stat(follow_symlinks=False).st_size for _, file in files)
        if size > (most := most_stored_bytes(self._claim.project_id)):
            raise ValueError(f"its files have {size:,} bytes; the project may store {most:,}")

    def _store(self, path: Path) -> BlobDraft:
        def store() -> BlobDraft:
            with open_left(path) as file:
                return write_blob(file)

        written = self._retry(store, unless=Directive.cancel)
        metrics.count_file("artifact", written.size)
        return written

    def _refusal(self, end: End) -> str:
        """The engine's reason, which is its last line on standard error as well; above that may be a trace. It names no
        folder of this machine."""
        reason = self._events.refusal or plain(end.stderr_tail.rpartition("\n")[2])
        for folder in (self._settings.storage, self._settings.data_dir, Path.home()):
            reason = reason.replace(f"{folder}", "...")
        return reason

    def _crash(self, end: End) -> Trouble:
        """The trouble that an engine's crash is to its job: a fault of the code, unless it was ended from outside."""
        trouble = trouble_of(end)
        said = f"{trouble.detail}; {self._logged(end.trace)}" if end.trace else trouble.detail
        return Trouble(trouble.fault, trouble.cause, said)

    def _logged(self, text: str) -> str:
        """Log what no user shall see, and give the words that say where it stands."""
        fault_id = f"fault_{uuid4().hex[:12]}"
        self._log.error("%s: %s", fault_id, text)
        return f"the worker's log has the details under {fault_id}"

    def _conclude(self, step: Callable[..., State], *arguments: Any) -> State:
        """Take the job's last step in a transaction, however long the database is away."""

        def write() -> State:
            with transaction() as session:
                return step(session, self._claim, *arguments)

        state = self._lease.conclude(lambda: self._retry(write))
        metrics.count_attempt(state.value, *(each.cause for each in arguments if isinstance(each, Trouble)))
        return state

    def _retry(self, action: Callable[[], Result], unless: Directive | None = None) -> Result:
        """Repeat an action while the database is away and the lease is ours.

        Raises Withdrawal once it is `unless` that is wanted of the job, and the database's error once that has gone on
        for too long.
        """
        begun = time.monotonic()
        while True:
            self._lease.check()
            try:
                return action()
            except LOST as error:
                self._check_stuck(begun, error)
                if unless is not None and self._lease.directive is unless:
                    raise Withdrawal from None
                self._log.warning("the database is away, trying again: %s", why(error))
                self._lease.wait(RETRY_SECONDS)

    def _report_own_fault(self, error: Exception) -> State | None:
        # The error's own text may hold secrets, and stands in the log alone.
        detail = f"the worker failed through a fault of its own; {self._logged(f'{type(error).__name__}, as above')}"
        fault: Literal["machine", "service"] = (
            "machine" if isinstance(error, (*LOST, OSError, MemoryError)) else "service"
        )
        try:
            return self._conclude(service.retry, Trouble(fault, type(error).__name__, detail))
        except Exception:
            self._log.exception("the job is left to its lease's end")
            return None


def trouble_of(end: End) -> Trouble:
    """The trouble that an engine's crash is to its job."""
    if end.code < 0:
        cause = name_of_signal(-end.code)
        hint = ", which is what the system sends when its memory runs out" if cause == "SIGKILL" else ""
        return Trouble("machine", cause, f"the engine was ended by {cause}{hint}")
    if end.code == STOPPED:
        return Trouble("machine", "stopped", "the engine stopped without having been asked to")
    return Trouble("service", f"exit_{end.code}", f"the engine crashed with exit code {end.code}")


def name_of_signal(number: int) -> str:
    """SIGKILL, or SIG35 for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"
