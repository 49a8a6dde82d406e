"""What the engine says: JSON lines on the standard output it was started with."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from worker.event import Checkpoint, Event, Kind, Progress

PROGRESS_SECONDS = 1.0


class Diary:
    """Writes records as lines; knows the phase, so that nobody else has to repeat it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unsaid = b""
        """What is still to be written of a line: a signal may end the writing of it."""
        self._next_progress = 0.0
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
        student: str | None = None,
        epoch: int | None = None,
        step: int = 0,
        values: dict[str, float] | None = None,
        text: str | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Say one record; a resumed run says it again with the same key."""
        self._say(
            Event(
                kind=kind,
                phase=self.phase,
                student=student,
                epoch=epoch,
                step=step,
                values=values or {},
                text=text,
                data=data,
            )
        )

    def progress_is_due(self) -> bool:
        """Whether it is time to say where the run stands; asking has a cost on a GPU."""
        return time.monotonic() >= self._next_progress

    def progress(self, **fields: Any) -> None:
        """Say where the run stands."""
        self._next_progress = time.monotonic() + PROGRESS_SECONDS
        self._say(Progress(phase=self.phase, **fields))

    def checkpoint(self, file: str, step: int) -> None:
        """Say that a checkpoint lies there, whole."""
        self._say(Checkpoint(file=file, phase=self.phase, step=step))

    def _say(self, line: Event | Progress | Checkpoint) -> None:
        self._unsaid += line.model_dump_json(exclude_defaults=False).encode() + b"\n"
        while self._unsaid:
            self._unsaid = self._unsaid[os.write(self._descriptor, self._unsaid) :]


def own_standard_output() -> int:
    """Keep standard output for the diary alone: what libraries print goes to standard error. Returns the descriptor."""
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return descriptor
