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

from worker.sandbox import Cell, needed

ENGINE = (sys.executable, "-m", "retort.engine", "--warm")
"""Imports torch, then waits on standard input for a job."""
QUOTED_BYTES = 1000
"""How much of the end of its standard error a crash is explained with."""
LONGEST_LINE = 64 * 2**20
"""Bytes of what it says at once."""
SILENCE_SECONDS = 5.0
"""How long after its end its output may stay open, held by a process of its own that left the group."""


@dataclass(frozen=True)
class End:
    """How a child ended."""

    code: int
    """Its exit code, or minus the number of the signal that ended it."""
    last_words: str
    """The end of its standard error."""


class Child:
    """A running engine. It leads a process group of its own, and ends when our end of its standard input closes."""

    def __init__(self, command: Sequence[str], cell: Cell | None = None) -> None:
        """`cell` is the place that it is kept in, which is gone with it; without one it is free."""
        self.cell = cell
        with contextlib.ExitStack() as failed:
            if cell is not None:
                failed.callback(cell.clear)
            self._errors = failed.enter_context(tempfile.TemporaryFile())
            self._process = subprocess.Popen(
                cell.command(command) if cell else command,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
                env=cell.environment() if cell else needed(os.environ), cwd=cell.scratch if cell else None,
            )  # fmt: skip
            failed.pop_all()
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._silent = False
        self._exited_at: float | None = None
        self._end: End | None = None
        self._signalling = threading.Lock()
        self._listener = threading.Thread(target=self._listen, name="engine-output", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, line: str) -> None:
        """Send a line, without waiting for the child to read it."""
        threading.Thread(target=self._tell, args=(line.encode() + b"\n",), name="engine-input", daemon=True).start()

    def read(self, timeout_seconds: float) -> bytes:
        """The next line that it said, or nothing when it says none in that time."""
        try:
            line = self._lines.get(timeout=timeout_seconds)
        except Empty:
            return b""
        if line is None:
            self._silent = True
        return line or b""

    def exited(self) -> bool:
        """Whether it has ended by itself or by a signal; it is not reaped, so that its number stays its own."""
        if self._end is not None:
            return True
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def finished(self) -> bool:
        """Whether it has ended and everything that it said was read."""
        if not self.exited():
            return False
        if self._exited_at is None:
            self._exited_at = time.monotonic()
            self.kill()  # what it left behind in its group would hold its standard output open
        return self._silent or time.monotonic() - self._exited_at > SILENCE_SECONDS

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the engine alone: what it started for itself is its own to stop."""
        self._signal(os.kill, signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to its whole process group."""
        self._signal(os.killpg, signal.SIGKILL)

    def end(self) -> End:
        """Kill what is left of it and say how it ended; asked again, it says the same."""
        self.kill()
        with self._signalling:
            if self._end is None:
                self._end = End(self._process.wait(), self._read_last_words())
                if self.cell is not None:
                    self.cell.clear()
        self._listener.join(SILENCE_SECONDS)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # of a line that it never read
            self._process.stdin.close()
        return self._end

    def _read_last_words(self) -> str:
        with self._errors:
            size = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size - QUOTED_BYTES))
            return self._errors.read().decode(errors="replace").strip()

    def _signal(self, send: Callable[[int, int], None], number: int) -> None:
        with self._signalling:
            if self._end is None:
                send(self.pid, number)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while line := output.readline(LONGEST_LINE):
                if len(line) == LONGEST_LINE:
                    self.kill()  # it has lost its mind, and would have our memory
                self._lines.put(line)
        self._lines.put(None)

    def _tell(self, line: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            pass  # it has ended, which whoever reads it sees
