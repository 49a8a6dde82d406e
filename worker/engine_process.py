"""The engine as a child process, from its start to the last of its process group."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from worker.sandbox import Cell, allowed_environment

ENGINE = (sys.executable, "-m", "retort.engine", "--warm")
"""Imports torch, then waits on standard input for an order."""
QUOTED_BYTES, LOGGED_BYTES = 1000, 20_000
"""Bytes from the end of its standard error that explain a crash: in short, and for the log."""
LONGEST_LINE = 64 * 2**20
"""Bytes of a line on its standard output."""
QUEUED_BYTES = 16 * 2**20
"""Bytes of lines that wait to be read, from which on it has to wait with further ones."""
SILENCE_SECONDS, LEFT_SECONDS = 5.0, 60.0
"""Seconds for which its output may stay open after its end, held by a process that left its group: without a line, and
in all."""


@dataclass(frozen=True)
class End:
    """Exit of an engine's process."""

    code: int
    """Its exit code, or minus the number of the signal that ended it."""
    stderr_tail: str
    """The end of its standard error."""
    trace: str = ""
    """The same at greater length, for the log alone: it may show paths and code."""


class EngineProcess:
    """A running engine. It leads a process group of its own, and ends when our end of its standard input closes."""

    def __init__(self, command: Sequence[str], cell: Cell | None = None) -> None:
        """`cell` confines it and is removed with it; without one it is not confined."""
        self.cell = cell
        with contextlib.ExitStack() as failed:
            if cell is not None:
                failed.callback(cell.clear)
            self._errors = failed.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                cell.command(command) if cell else command,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
                env=cell.environment() if cell else allowed_environment(os.environ), cwd=cell.scratch if cell else None,
            )  # fmt: skip
            failed.pop_all()
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._queued = 0
        """Bytes of those lines."""
        self._taken = threading.Condition()
        self._output_ended = False
        self._exited_at: float | None = None
        self._end: End | None = None
        self._signalling = threading.Lock()
        self._reader = threading.Thread(target=self._read_output, name="engine-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, line: str) -> None:
        """Write a line to its standard input, without waiting for it to be read."""
        threading.Thread(target=self._send, args=(line.encode() + b"\n",), name="engine-input", daemon=True).start()

    def read(self, timeout_seconds: float) -> bytes:
        """The next line of its standard output; empty when none comes in that time."""
        try:
            line = self._lines.get(timeout=timeout_seconds)
        except Empty:
            return b""
        if line is None:
            self._output_ended = True
            return b""
        with self._taken:
            self._queued -= len(line)
            self._taken.notify()
        return line

    def exited(self) -> bool:
        """Whether it has ended by itself or by a signal; it is not reaped yet, so that its pid stays its own."""
        if self._end is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def finished(self) -> bool:
        """Whether it has ended and all of its output was read."""
        if not self.exited():
            return False
        if self._exited_at is None:
            self._exited_at = time.monotonic()
            self.kill()  # a process left in its group would hold its standard output open
        silent = time.monotonic() - self._exited_at > (SILENCE_SECONDS if self._lines.empty() else LEFT_SECONDS)
        return self._output_ended or silent

    def terminate(self) -> None:
        """Send SIGTERM to the engine alone: processes that it started are its own to stop."""
        self._signal(os.kill, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to its whole process group."""
        self._signal(os.killpg, signal.SIGKILL)

    def end(self) -> End:
        """Kill what is left of its group, reap it and return its exit; a second call returns the same."""
        self.kill()
        with self._signalling:
            if self._end is None:
                self._end = End(self._process.wait(), self._read_errors(QUOTED_BYTES), self._read_errors(LOGGED_BYTES))
                self._errors.close()
                if self.cell is not None:
                    self.cell.clear()
        with self._taken:
            self._taken.notify()
        self._reader.join(SILENCE_SECONDS)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a line that it never read
            self._process.stdin.close()
        return self._end

    def _read_errors(self, count: int) -> str:
        """The last so many bytes of its standard error."""
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - count))
        return self._errors.read(count).decode(errors="replace").strip()

    def _signal(self, send: Callable[[int, int], None], number: int) -> None:
        with self._signalling:
            if self._end is None:
                send(self.pid, number)

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while line := output.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    self.kill()  # lines without an end would fill the worker's memory
                with self._taken:
                    self._taken.wait_for(lambda: self._queued < QUEUED_BYTES or self._end is not None)
                    self._queued += len(line)
                self._lines.put(line)
        self._lines.put(None)

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it has ended, which `finished` reports
