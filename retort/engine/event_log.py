"""What the engine says: JSON lines on the standard output it was started with."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from retort.event import Checkpoint, Event, Kind, Progress

PROGRESS_SECONDS = 1.0


class EventLog:
    """Writes records as lines; knows the phase, so that nobody else has to repeat it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unwritten = b""
        """What is still to be written of a line: a signal may end the writing of it."""
        self._next_progress = 0.0
        self.recorded: dict[str, str] = {}
        """Every record so far by its key, those of the runs that this one goes on from among them."""
        self.phase = "preparing"
        self._entered = ""

    def enter(self, phase: str) -> None:
        """Say that a phase begins; several stretches of one phase are one."""
        if phase != self._entered:
            self.phase = self._entered = phase
            self.record("phase")

    def record(
        self,
        kind: Kind,
        *,
        network: str | None = None,
        epoch: int | None = None,
        step: int = 0,
        values: dict[str, float] | None = None,
        text: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Say one record; a resumed run says it again with the same key."""
        event = Event(
            kind=kind,
            phase=self.phase,
            network=network,
            epoch=epoch,
            step=step,
            values=values or {},
            text=text,
            data=data,
        )
        self.recorded[event.key] = event.model_dump_json()
        self._write(self.recorded[event.key])

    def replay(self, recorded: dict[str, str]) -> None:
        """Say what was said up to the checkpoint that this run goes on from.

        Whoever listened to the run before may have ended with it, before all of that was written down.
        """
        for key, line in recorded.items():
            if key not in self.recorded:
                self.recorded[key] = line
                self._write(line)

    def progress_is_due(self) -> bool:
        """Whether it is time to say where the run stands; asking has a cost on a GPU."""
        return time.monotonic() >= self._next_progress

    def progress(self, **fields: Any) -> None:
        """Say where the run stands."""
        self._next_progress = time.monotonic() + PROGRESS_SECONDS
        self._write(Progress(phase=self.phase, **fields).model_dump_json())

    def checkpoint(self, file: str, step: int) -> None:
        """Say that a checkpoint lies there, whole."""
        self._write(Checkpoint(file=file, phase=self.phase, step=step).model_dump_json())

    def _write(self, line: str) -> None:
        self._unwritten += line.encode() + b"\n"
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]


def own_standard_output() -> int:
    """Keep standard output for the diary alone: what libraries print goes to standard error. Returns the descriptor."""
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return descriptor
