"""Starts the API or a worker as users start them, with hooks that let a test move the clock and lose wake-ups.

python -m tests.faults.launcher api --port PORT
python -m tests.faults.launcher worker

FAULTS_CONTROL names a folder: `offset` holds what is added to the database's clock, in seconds; while `lose` is there
no wake-up is sent; the process that takes `die` away, as it is about to send one, ends there and then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import service.db
from service.wake_up import WakeUpSender

CONTROL = Path(os.environ["FAULTS_CONTROL"])
LOOK_SECONDS = 0.02


def follow_clock() -> None:
    """Keep to the clock's offset that the test wrote."""
    while True:
        service.db.clock_offset_seconds = read_offset()
        time.sleep(LOOK_SECONDS)


def read_offset() -> float:
    try:
        return float((CONTROL / "offset").read_text())
    except FileNotFoundError:
        return 0.0


wake = WakeUpSender.wake


def wake_or_not(sender: WakeUpSender) -> None:
    """The step after a commit: a wake-up, or nothing, or the end of this process."""
    if (CONTROL / "lose").exists():
        return
    try:
        (CONTROL / "die").unlink()
    except FileNotFoundError:
        wake(sender)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Start what the first argument names."""
    service.db.clock_offset_seconds = read_offset()
    threading.Thread(target=follow_clock, daemon=True).start()
    WakeUpSender.wake = wake_or_not  # type: ignore[method-assign]
    what = sys.argv.pop(1)
    if what == "api":
        from service.app import main as serve

        serve()
    else:
        from worker.app import agent
        from worker.app import main as work

        # The stand-in lies with the tests, and notes what it did.
        agent.files = {"read": (str(Path(__file__).parent),), "write": (os.environ["FAULTS_WORK"],)}
        work(json.loads(os.environ["FAULTS_ENGINE"]))


if __name__ == "__main__":
    main()
