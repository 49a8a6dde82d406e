"""A real API over a real database, and a wire to it that breaks where a test sets it to."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from retort.client import Retort
from service.artifacts.repository import add_artifact
from service.blobs.repository import commit_blob, write_blob
from service.db import transaction
from service.jobs.event_log import Entry, append
from service.keys.service import create_local_key
from tests.conftest import free_port, wait_until
from tests.processes import kill_tree
from tests.servers import get

RECIPE: dict[str, Any] = {
    "name": "a try",
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet20", "teach": {"epochs": 2}},
    "student": {"architecture": "resnet8"},
    "methods": [{"name": "kd"}],
    "training": {"epochs": 2},
}


@dataclass
class Service:
    """An API process, and what its tests put into its database."""

    url: str
    database_url: str
    key: str = ""

    def create(self, **fields: Any) -> str:
        """A queued job; no worker runs, so it stays queued."""
        with Retort(self.url, self.key) as client:
            return client.jobs.create({**RECIPE, **fields}).id

    def add_file(self, job_id: str, name: str, content: bytes) -> str:
        """A file that the job made; its sha256."""
        written = write_blob(BytesIO(content))
        with transaction() as session:
            blob_id = commit_blob(session, written)
            add_artifact(
                session, job_id, name=name, network="student", media_type="application/octet-stream", blob_id=blob_id
            )
        return hashlib.sha256(content).hexdigest()

    def write_events(self, job_id: str, count: int) -> None:
        """Append `count` events of a few hundred bytes each to the job's event log."""
        entries = [
            Entry("metrics", {"phase": "distilling", "step": step, "text": "x" * 300}, key=f"metrics {step}")
            for step in range(count)
        ]
        with transaction() as session:
            append(session, job_id, 1, entries)


@pytest.fixture(scope="session")
def api(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One API process for all these tests; each makes its own jobs."""
    folder = tmp_path_factory.mktemp("api")
    database, port = folder / "retort.db", free_port()
    database.write_bytes(migrated_sqlite.read_bytes())
    service = Service(f"http://127.0.0.1:{port}", f"sqlite:///{database}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RETORT_")}
    environment |= {"RETORT_DATA_DIR": str(folder), "RETORT_DATABASE_URL": service.database_url}
    with (folder / "api.log").open("wb") as log:
        command = [sys.executable, "-m", "service.app", "--port", str(port)]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: get(f"{service.url}/healthz").is_success, "the API starts")
        yield service
        process.terminate()
        process.wait(120)
    finally:
        kill_tree(process)


@pytest.fixture
def service(api: Service, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Service:
    """The API with a key of this test; the client reads both from the environment."""
    environment(database_url=api.database_url)
    with transaction() as session:
        key = create_local_key(session, "test", f"project {os.urandom(4).hex()}")
    monkeypatch.setenv("RETORT_URL", api.url)
    monkeypatch.setenv("RETORT_KEY", key)
    return Service(api.url, api.database_url, key)


@pytest.fixture
def client(service: Service) -> Iterator[Retort]:
    with Retort() as client:
        yield client


@dataclass
class Wire:
    """Carries bytes between a client and a server; breaks where a test sets it to."""

    target: int
    breaks: list[int] = field(default_factory=list)
    """For each connection in turn, after how many bytes of answer it breaks; later ones are whole."""
    answered: list[int] = field(default_factory=list)
    """How many bytes of answer each connection carried."""
    cuts: list[int | None] = field(default_factory=list)
    """For each connection in turn, after how many bytes of request it breaks; None and later ones are whole."""
    requested: list[int] = field(default_factory=list)
    """How many bytes of request each connection carried."""

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _run(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            limit = self.breaks.pop(0) if self.breaks else None
            cut = self.cuts.pop(0) if self.cuts else None
            far = socket.create_connection(("127.0.0.1", self.target))
            self.answered.append(0)
            self.requested.append(0)
            self._run(self._carry, near, far, cut, len(self.requested) - 1)
            self._run(self._carry_back, far, near, limit, len(self.answered) - 1)

    def _carry(self, near: socket.socket, far: socket.socket, cut: int | None, number: int) -> None:
        try:
            while data := near.recv(65536):
                far.sendall(data if cut is None else data[: cut - self.requested[number]])
                self.requested[number] += len(data)
                if cut is not None and self.requested[number] >= cut:
                    near.shutdown(socket.SHUT_RDWR)
                    break
            far.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it broke, as the test set it to

    def _carry_back(self, far: socket.socket, near: socket.socket, limit: int | None, number: int) -> None:
        try:
            while data := far.recv(65536):
                if limit is not None:
                    data = data[: limit - self.answered[number]]
                near.sendall(data)
                self.answered[number] += len(data)
                if self.answered[number] == limit:
                    break
        except OSError:
            pass  # the client is gone
        for end in (near, far):
            with suppress(OSError):  # it may be closed already
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def wire(service: Service) -> Iterator[Wire]:
    """A wire to the API, whole until a test sets where it breaks."""
    wire = Wire(int(service.url.rpartition(":")[2]))
    yield wire
    wire.close()
