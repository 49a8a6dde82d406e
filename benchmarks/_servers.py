"""Private servers for benchmarks: PostgreSQL, the front end over it, and whatever else is compared with it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from sqlalchemy import create_engine

from service.db import get_engine, transaction
from service.keys.service import create_local_key
from service.migrations import upgrade
from tests.servers import PostgreSQL, ended, free_port

START_SECONDS = 600
"""A server that imports much takes its time where others compute."""


@dataclass(frozen=True)
class Server:
    """A running process that listens on a port of this machine."""

    port: int
    process: subprocess.Popen[bytes]

    def memory_mib(self, name: str = "VmRSS") -> float:
        """Memory that the process holds; `VmHWM` is the most since that was last forgotten."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
        assert found
        return int(found[1]) / 1024

    def forget_peak(self) -> None:
        """Let `VmHWM` begin anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


@contextmanager
def postgresql(databases: Sequence[str]) -> Iterator[str]:
    """A server with those databases, thrown away afterwards; its URL without a database's name."""
    with tempfile.TemporaryDirectory(prefix="retort-bench-") as folder:
        os.chmod(folder, 0o755)
        server = PostgreSQL(Path(folder))
        server.start()
        try:
            engine = create_engine(f"{server.url}/postgres", isolation_level="AUTOCOMMIT")
            with engine.connect() as connection:
                for name in databases:
                    connection.exec_driver_sql(f"CREATE DATABASE {name}")
            engine.dispose()
            yield server.url
        finally:
            server.stop()


def prepare(database_url: str, folder: Path) -> str:
    """Make this process's settings name that database, build it, and make an admin key."""
    os.environ["RETORT_DATABASE_URL"], os.environ["RETORT_DATA_DIR"] = database_url, str(folder)
    upgrade(get_engine())
    with transaction() as session:
        return create_local_key(session, "bench")


@contextmanager
def serving(
    command: Sequence[str], ready: str, log: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[Server]:
    """A process that listens on the port put in for `{port}`, from when it answers there."""
    port = free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [word.format(port=port) for word in command], stdout=out, stderr=out, env=environment and dict(environment),
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(f"http://127.0.0.1:{port}{ready}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command[0]} does not answer:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield Server(port, process)
    finally:
        ended(process, signal.SIGTERM)


def front_end(log: Path) -> AbstractContextManager[Server]:
    """The front end with this process's settings."""
    return serving([sys.executable, "-m", "service.app", "--port", "{port}"], "/healthz", log)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
