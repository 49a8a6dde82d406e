"""Child processes that a command keeps alive, and that end with it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.1
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_SECONDS = 60.0
"""Seconds after which a child's end has a new cause: the pause before its next start is short again."""
PR_SET_PDEATHSIG = 1
QUOTED_BYTES = 16 << 10
LARGEST_LOG_BYTES = 16 << 20
"""Size from which a log is put aside at the next start; one older log is kept."""


@dataclass
class ChildProcess:
    """One process that is started again whenever it ends by itself."""

    name: str
    command: Sequence[str]
    log: Path
    """File of its standard output and error."""
    stop_seconds: float
    """Seconds from SIGTERM to SIGKILL."""
    inherits: tuple[int, ...] = ()
    """Descriptors of open files that it gets."""
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    next_start: float = 0.0
    pause_seconds: float = field(default=FIRST_PAUSE_SECONDS)

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the parent alone."""
        if self.log.exists() and self.log.stat().st_size > LARGEST_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".old.log"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=self.inherits, preexec_fn=die_with_parent(),
            )  # fmt: skip
        self.started_at = time.monotonic()

    def ended(self) -> str | None:
        """Its exit code or signal in words once it has ended, else None."""
        code = None if self.process is None else self.process.poll()
        if code is None:
            return None
        self.process = None
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def postpone(self) -> float:
        """Plan the next start; returns the seconds until then, which double while it ends soon after its starts."""
        if time.monotonic() - self.started_at > HEALTHY_SECONDS:
            self.pause_seconds = FIRST_PAUSE_SECONDS
        pause = self.pause_seconds
        self.next_start = time.monotonic() + pause
        self.pause_seconds = min(2 * pause, LONGEST_PAUSE_SECONDS)
        return pause

    def stop(self) -> None:
        """Send SIGTERM, wait, and kill it if it is still there."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def last_line(self) -> str:
        """The last line of its log, or the message of that line where it is JSON."""
        with self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - QUOTED_BYTES))
            lines = log.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        try:
            return str(json.loads(last)["message"])
        except (ValueError, TypeError, KeyError):
            return last


class StopRequest:
    """True from the first SIGINT, SIGTERM or SIGHUP on; the second one ends this process at once."""

    def __init__(self) -> None:
        self._received = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def __bool__(self) -> bool:
        return self._received

    def _note(self, number: int, frame: object) -> None:
        if self._received:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._received = True


def keep_alive(children: Iterable[ChildProcess], stop: StopRequest, log: Callable[[str], None]) -> None:
    """Start children again when they end, until a stop is requested; then stop them, in order."""
    children = [*children]
    try:
        while not stop:
            for child in children:
                restart_when_ended(child, log)
            time.sleep(POLL_SECONDS)
    finally:
        for child in children:
            child.stop()


def restart_when_ended(child: ChildProcess, log: Callable[[str], None]) -> None:
    """Log the end of a child, and start it again when its pause is over."""
    how = child.ended()
    if how is not None:
        pause = child.postpone()
        log(f"the {child.name} ended with {how}; it starts again in {pause:g} s ({child.log}: {child.last_line()})")
    if child.process is None and time.monotonic() >= child.next_start:
        child.start()


def die_with_parent() -> Callable[[], None] | None:
    """A `preexec_fn` by which a child gets SIGTERM when its parent ends, killed even; None where that is not Linux."""
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    return tie
