"""Processes that tests start: marked in their environment, and ended with the tests however those end.

`end_with_this_process` marks all that this process starts from now on, and starts a reaper. Once this process is gone,
killed even, the reaper kills each process that bears the mark, and all that those started, and deletes folders in
memory whose names have the mark. Run by its path this file is the reaper.
"""

from __future__ import annotations

import atexit
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

MARK = "TEST_PROCESSES"
"""The variable that bears the mark."""
MEMORY = Path("/dev/shm")
"""The folder whose files are in memory, where there is one."""
WATCH_SECONDS = 1.0
REAP_SECONDS = 60.0
QUIET_LOOKS = 3
"""Looks in a row that find nothing before the reaper ends: between fork and exec a process bears no mark yet."""


def end_with_this_process() -> None:
    """Let no process that this one starts outlive it. Only a system with /proc can."""
    if not Path("/proc/self/environ").exists():
        return
    mark = uuid4().hex
    unmarked = {name: value for name, value in os.environ.items() if name != MARK}
    reaper = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, env=unmarked, start_new_session=True,
    )  # fmt: skip
    os.environ[MARK] = mark
    atexit.register(_wait_for, reaper)


def _wait_for(reaper: subprocess.Popen[bytes]) -> None:
    assert reaper.stdin is not None
    reaper.stdin.close()
    reaper.wait(2 * REAP_SECONDS)


def marked(mark: str) -> list[int]:
    """Living processes that bear the mark, and all that descend from them."""
    parents = dict(_parents())
    wanted = f"{MARK}={mark}".encode()
    found = {pid for pid in parents if wanted in _environment(pid)}
    return sorted(found | _descendants(found, parents))


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill a child of this process, with all that descends from it, and reap it."""
    if process.poll() is None:
        for pid in (process.pid, *_descendants({process.pid}, dict(_parents()))):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _parents() -> list[tuple[int, int]]:
    """Every living process, with its parent."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            state, parent, *_ = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            if state not in "ZX":
                found.append((int(name), int(parent)))
    return found


def _descendants(ancestors: set[int], parents: dict[int, int]) -> set[int]:
    found: set[int] = set()
    while new := {pid for pid, parent in parents.items() if parent in ancestors | found} - found:
        found |= new
    return found


def _environment(pid: int) -> bytes:
    """The environment that a process began with, where it may be read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def reap(mark: str) -> None:
    """Wait until the parent is gone or closes standard input, then kill and delete all that bears the mark."""
    parent = os.getppid()
    while not select.select([0], [], [], WATCH_SECONDS)[0] and os.getppid() == parent:
        pass
    deadline, quiet = time.monotonic() + REAP_SECONDS, 0
    while quiet < QUIET_LOOKS and time.monotonic() < deadline:
        found = marked(mark)
        for pid in found:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        quiet = 0 if found else quiet + 1
        time.sleep(0.05)
    for folder in MEMORY.glob(f"*{mark}*"):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    reap(sys.argv[1])
