"""A service for as long as a block runs: `retort up` as a child process, with a folder and a port of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retort.cli.errors import CommandError
from worker.commands.children import POLL_SECONDS, die_with_parent

START_SECONDS = 240.0
STOP_SECONDS = 120.0


@contextmanager
def embedded_service(folder: Path) -> Iterator[tuple[str, str]]:
    """Address and key of a service whose files are all in the folder; it ends with the block."""
    ready, log = folder / "ready.json", folder / "up.log"
    command = [sys.executable, "-m", "retort.cli.main", "up", "--port", "0", "--data-dir", str(folder)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--ready-file", str(ready)], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            env=own_environment(), start_new_session=True, preexec_fn=die_with_parent(),
        )  # fmt: skip
    try:
        _wait(process, ready, log)
        announced = json.loads(ready.read_text())
        yield announced["url"], Path(announced["key_file"]).read_text().strip()
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        finally:
            process.kill()  # its own children get SIGTERM then


def own_environment() -> dict[str, str]:
    """The environment without the variables that name another database or broker."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RETORT_")}


def _wait(process: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise CommandError(f"the service did not start: {log.read_text(errors='replace').strip()}")
        time.sleep(POLL_SECONDS)
