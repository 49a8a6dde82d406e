"""The event log of the engine: JSON lines on the standard output it was started with."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from pydantic import ValidationError

from retort.engine.interrupt import Impossible
from retort.event import LONGEST_TEXT, Checkpoint, Event, Kind, Progress
from retort.spec import wrong_at

PROGRESS_SECONDS = 1.0


class EventLog:
    """Writes records as lines, each with the present phase."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._unwritten = b""
        """Bytes of a line that are still to be written: a signal may end the writing of it."""
        self._next_progress = 0.0
        self.recorded: dict[str, str] = {}
        """Every record so far by its key, those of the runs that this one goes on from among them."""
        self.phase = "preparing"
        self._entered = ""

    def enter(self, phase: str) -> None:
        """Record that a phase begins; several stretches of one phase are one."""
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
        """Write one record; a resumed run writes it again with the same key. A long text is cut.

        Raises Impossible where it holds something that cannot be stored.
        """
        try:
            event = Event(
                kind=kind,
                phase=self.phase,
                network=network,
                epoch=epoch,
                step=step,
                values=values or {},
                text=text if text is None or len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 3]}...",
                data=data,
            )
        except ValidationError as error:
            raise Impossible(wrong_at("record", error)) from None
        self.recorded[event.key] = event.model_dump_json()
        self._write(self.recorded[event.key])

    def replay(self, recorded: dict[str, str]) -> None:
        """Write again what was recorded up to the checkpoint that this run goes on from.

        The reader of the run before may have ended with it, before all of that was stored.
        """
        for key, line in recorded.items():
            if key not in self.recorded:
                self.recorded[key] = line
                self._write(line)

    def progress_is_due(self) -> bool:
        """Whether progress is to be written again; collecting it has a cost on a GPU."""
        return time.monotonic() >= self._next_progress

    def progress(self, **fields: Any) -> None:
        """Write the progress of the run."""
        self._next_progress = time.monotonic() + PROGRESS_SECONDS
        self._write(Progress(phase=self.phase, **fields).model_dump_json())

    def checkpoint(self, file: str, step: int) -> None:
        """Record that a checkpoint has been written whole."""
        self._write(Checkpoint(file=file, phase=self.phase, step=step).model_dump_json())

    def _write(self, line: str) -> None:
        self._unwritten += line.encode() + b"\n"
        while self._unwritten:
            self._unwritten = self._unwritten[os.write(self._descriptor, self._unwritten) :]


def own_standard_output() -> int:
    """Keep standard output for the event log alone: prints of libraries go to standard error. Returns the
    descriptor."""
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return descriptor
