"""How a run is told to stop, and how it says why it ended."""

from __future__ import annotations

# The exit codes of the engine; any other is a crash.
FINISHED = 0
IMPOSSIBLE = 2
OUT_OF_MEMORY = 71
STOPPED = 75


class Impossible(Exception):
    """The recipe is well formed, but it cannot be carried out; the sentence says why."""


class MemoryExhausted(Exception):
    """A batch does not fit into the device's memory; the sentence says which would."""


class Stopped(Exception):
    """The run was asked to stop, and left a checkpoint where there was something to keep."""


class Interrupt:
    """Set from a signal or from a watching thread; looked at between steps."""

    def __init__(self) -> None:
        self.wanted = False

    def set(self, *_: object) -> None:
        self.wanted = True

    def check(self) -> None:
        """Raise Stopped if a stop is wanted."""
        if self.wanted:
            raise Stopped
