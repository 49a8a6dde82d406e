"""The command line against a real API, and `retort up` as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retort.cli.main import app
from tests.conftest import wait_until
from tests.retort.client.conftest import Service, api, service

__all__ = ["api", "service"]

STOP_SECONDS = 90


@pytest.fixture
def retort(service: Service) -> Callable[..., Result]:
    """Runs the command with those words, in this process, against the API."""
    runner = CliRunner()

    def run(*words: str, input: str | None = None) -> Result:
        result = runner.invoke(app, words, input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


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
        return self.process.wait(STOP_SECONDS)


def all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def works_in(process: int, folder: Path) -> bool:
    """Whether a living process has the folder in its command or its environment."""
    try:
        if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return False
        told = Path(f"/proc/{process}/cmdline").read_bytes() + Path(f"/proc/{process}/environ").read_bytes()
    except OSError:  # it ended while we looked
        return False
    return str(folder).encode() in told


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
    wait_until(lambda: (folder / "ready.json").exists() or process.poll() is not None, "retort up starts", 60)
    assert process.poll() is None, up.said()
    return up


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A `retort up` of this test's own."""
    running = start_up(tmp_path / "up")
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture(scope="module")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A `retort up` for all tests of a file."""
    running = start_up(tmp_path_factory.mktemp("shared") / "up")
    yield running
    running.stop()
