"""`retort up` as a process of its own, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.processes import kill_tree
from tests.servers import wait_until

START_SECONDS = STOP_SECONDS = 300
"""Limits for hangs alone: on a busy machine all takes its time."""


@dataclass
class Up:
    """A running `retort up`."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    @property
    def url(self) -> str:
        return str(json.loads((self.folder / "ready.json").read_text())["url"])

    @property
    def key(self) -> str:
        return (self.folder / "key").read_text().strip()

    def said(self) -> str:
        return self.log.read_text()

    def everyone(self) -> list[int]:
        """Every process that was started for this folder, whoever its parent is now."""
        return [process for process in all_processes() if works_in(process, self.folder)]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_SECONDS)
        finally:
            kill_tree(self.process)


def all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def works_in(process: int, folder: Path) -> bool:
    """Whether a living process has the folder in its command or its environment."""
    try:
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        text = Path(f"/proc/{process}/cmdline").read_bytes() + Path(f"/proc/{process}/environ").read_bytes()
    except OSError:  # it ended while we looked
        return False
    return str(folder).encode() in text


def start_up(folder: Path, *words: str) -> Up:
    """`retort up` on a free port, ready."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    command = [sys.executable, "-m", "retort.cli.main", "up", "--port", "0", "--data-dir", str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RETORT_")}
    # By this one all but engines are recognised; those have their home below the folder.
    environment |= {"TEST_FOLDER": str(folder), "RETORT_LOOK_SECONDS": "0.5"}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--ready-file", str(folder / "ready.json"), *words], env=environment, stdout=out, stderr=out
        )
    up = Up(process, folder, log)
    try:
        ready = folder / "ready.json"
        wait_until(lambda: ready.exists() or process.poll() is not None, "retort up starts", START_SECONDS)
        assert process.poll() is None, up.said()
    except BaseException:
        kill_tree(process)
        raise
    return up
