"""Interrupts of a run: requests to stop or to finish, the exceptions that end it, and its exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

# The exit codes of the engine; any other is a crash.
FINISHED = 0
IMPOSSIBLE = 2
UNREACHABLE = 69
FAULT = 70
OUT_OF_MEMORY = 71
MEMORY_RAN_OUT = 72
NOTHING_TO_KEEP = 73
DISK_FULL = 74
STOPPED = 75
MACHINE_FAILED = 76
STUDENTS_FAILED = 77


class Impossible(Exception):
    """The recipe is well formed, but it cannot be carried out; the sentence gives the reason."""


class Diverged(Impossible):
    """A number of each network that is trained side by side was not finite."""


class StudentsFailed(Exception):
    """The run has ended and left its files, but a student has learned nothing; the sentence says which and why."""


class MemoryExhausted(Exception):
    """The first batch does not fit into the device's memory; the sentence names one that does."""


class Stopped(BaseException):
    """The run was asked to stop, and left a checkpoint where there was something to keep.

    No Exception, so that no library takes it for an error of its own where a signal raises it.
    """


class NothingToKeep(BaseException):
    """The run was asked to finish before a student had been trained; the sentence says so. No Exception, as Stopped."""


class Interrupt:
    """Requests to a run, read between steps and set in the main thread, by signals."""

    def __init__(self) -> None:
        self.wanted = False
        """Stop: leave a checkpoint and go. It weighs more than `finish`."""
        self.finish = False
        """End the training here, and ship the best so far."""
        self._leaves = self._leaves_to_finish = False

    def set(self, *_: object) -> None:
        """Request a stop; a second time changes nothing."""
        again, self.wanted = self.wanted, True
        if not again:
            self._leave()

    def set_finish(self, *_: object) -> None:
        """Request the end of the training; a second time changes nothing."""
        again, self.finish = self.finish, True
        if not again:
            self._leave()

    def check(self) -> None:
        """Raise Stopped if a stop is wanted."""
        if self.wanted:
            raise Stopped

    @property
    def keeps_nothing(self) -> bool:
        """Whether a stop may end the process on the spot; for a thread that checks while a call holds up the main
        one."""
        return self._leaves

    @contextmanager
    def at_once(self, *, nothing_to_keep: bool = False) -> Iterator[None]:
        """Let requests end the work of the main thread wherever it stands: a stretch that can be done again.

        A request to finish does so only where there is `nothing_to_keep`. Raises Stopped or NothingToKeep, also where a
        library has turned it into another error meanwhile.
        """
        self._leaves, self._leaves_to_finish = True, nothing_to_keep
        try:
            self._leave()
            yield
        finally:
            self._leave()
            self._leaves = self._leaves_to_finish = False

    def _leave(self) -> None:
        if self._leaves:
            self.check()
        if self._leaves_to_finish and self.finish:
            raise NothingToKeep(NOT_TRAINED)


NOT_TRAINED = (
    "asked to finish before any student was trained: there is nothing to keep, and a teacher alone is not enough"
)
