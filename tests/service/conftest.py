"""The front end in this process, over both databases, and as a real process where only that tells."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from service.access.scopes import PROJECT_SCOPES
from service.app import create_app
from service.db import transaction
from service.keys.service import create_local_key
from service.settings import get_settings
from tests.conftest import free_port, wait_until
from tests.servers import get

ROOT = Path(__file__).parents[2]
HANG_SECONDS = 300.0
"""After that long a process hangs; a machine with much other work may take minutes for what takes a second."""
RECIPE: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet20", "teach": {"epochs": 2}},
    "student": {"architecture": "resnet8"},
    "methods": [{"name": "kd"}],
    "training": {"epochs": 2},
}

on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Marks a test for one kind of database, since what it shows depends on none."""
on_postgresql = pytest.mark.parametrize(
    "database_url", [pytest.param("postgresql", marks=pytest.mark.server)], indirect=True
)
"""The same for tests with several processes or threads, which PostgreSQL lets write at once."""


@pytest.fixture
def recipe() -> dict[str, Any]:
    """A good recipe, in the shorthand for one student."""
    return deepcopy(RECIPE)


@pytest.fixture
def key(database: str) -> str:
    """An admin key of the project `default`."""
    with transaction() as session:
        return create_local_key(session, "test")


@pytest.fixture
def stranger_key(database: str) -> str:
    """A key of another project, which may do all there but what needs an admin."""
    with transaction() as session:
        return create_local_key(session, "stranger", "elsewhere", scopes=PROJECT_SCOPES)


@cache
def application() -> FastAPI:
    """One for all tests of a process: FastAPI looks at its endpoints when it is first asked, which takes as long as
    ten requests, and not in two threads at once."""
    app = create_app()
    TestClient(app).get("/none")  # which each endpoint is asked for
    return app


def bearing(key: str) -> TestClient:
    """A client that shows that key."""
    return TestClient(application(), headers={"Authorization": f"Bearer {key}"}, raise_server_exceptions=False)


@pytest.fixture
def client(key: str) -> TestClient:
    return bearing(key)


@pytest.fixture
def stranger(stranger_key: str) -> TestClient:
    return bearing(stranger_key)


@dataclass
class Server:
    """A real process of the front end."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    keys: list[str] = field(default_factory=list)

    def memory_mib(self, name: str = "VmRSS") -> float:
        """What the process holds; `VmHWM` is the most that it ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found
        return int(found[1]) / 1024


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts the front end as a process with this process's settings; further RETORT_* variables by name."""
    started: list[Server] = []

    def run(**variables: object) -> Server:
        port, log = free_port(), tmp_path / f"api-{len(started)}.log"
        settings = get_settings()
        environment = {
            **os.environ,
            "RETORT_DATA_DIR": str(settings.data_dir),
            **{f"RETORT_{name.upper()}": str(value) for name, value in variables.items()},
        }
        command = [sys.executable, "-m", "service.app", "--port", str(port)]
        with log.open("wb") as out:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=out)
        server = Server(f"http://127.0.0.1:{port}", process, log)
        started.append(server)
        wait_until(lambda: answers(server), "the front end starts", HANG_SECONDS)
        return server

    yield run
    for server in started:
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(HANG_SECONDS)


def answers(server: Server) -> bool:
    """Whether the front end answers; the test fails at once where its process has ended."""
    if server.process.poll() is not None:
        pytest.fail(f"the front end ended with {server.process.returncode}: {server.log.read_text()}")
    return get(f"{server.url}/healthz", timeout=HANG_SECONDS).is_success
