"""Private servers of the installed PostgreSQL and Redis, which tests may stop, kill and start again on their port."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import httpx2
import psycopg
import pytest
import redis

from tests.processes import MEMORY, kill_tree

START_SECONDS = 120
"""Seconds after which something that does not come hangs; on a busy machine all takes its time."""

MEMORY_BYTES = 4 * 2**30
"""Free room of a folder in memory that is used; the servers of all sessions side by side take half a GiB."""

NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For requests without TLS: by itself each request reads every certificate authority that the machine trusts."""


def absent(server: str) -> str:
    """Skip, since a server is not installed here; in CI fail."""
    reason = f"{server} is not installed on this machine"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and in CI it must be")
    pytest.skip(reason)


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def lasting_port() -> int:
    """A free port that stays free while its server is down: no system hands it out to a other connection."""
    while True:
        port = random.randrange(15_000, 30_000)
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(answers: Callable[[], object], what: str, seconds: float = START_SECONDS) -> None:
    """Ask until there is an answer that is true; fail with the last error when there is none in time."""
    deadline = time.monotonic() + seconds
    error: Exception | None = None
    while time.monotonic() < deadline:
        try:
            if answers():
                return
        except Exception as raised:
            error = raised
        time.sleep(0.02)
    pytest.fail(f"{what}: not within {seconds:g} s ({error!r})")


def get(url: str, timeout: float = 5) -> httpx2.Response:
    """The answer to a GET without TLS, over a connection of its own; cheap enough to be asked again and again."""
    return httpx2.get(url, timeout=timeout, verify=NO_AUTHORITIES)


def binary(name: str) -> str | None:
    """The path of a program of PostgreSQL: of the one on the path, or of Debian's."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


def in_memory() -> str | None:
    """A folder in memory for what is thrown away, or None where there is no room in one: the usual one for that.

    A database is a thousand files; ext4, which gives no number of a file away again within seconds of its deletion,
    takes ten times the processor's time of memory to copy one after others were dropped.
    """
    return str(MEMORY) if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > MEMORY_BYTES else None


def unprivileged() -> dict[str, object]:
    """Arguments of subprocess that run a program as another user where we are root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    name = "postgres" if "postgres" in names else "nobody"
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


class PostgreSQL:
    """A server with a cluster of its own in a folder, on one port from start to start.

    The machine may not lose power while it runs, so nothing waits for the disk. `durable`: what was committed outlives
    a server that ends at once; otherwise the last commits may be lost then, as no test notices that never ends one so.
    """

    def __init__(self, folder: Path, *, durable: bool = False) -> None:
        initdb, postgres = binary("initdb"), binary("postgres")
        if not (initdb and postgres):
            absent("PostgreSQL")
        self.port = lasting_port()
        self.url = f"postgresql+psycopg://retort@127.0.0.1:{self.port}"
        """Without a database's name."""
        self.process: subprocess.Popen[bytes] | None = None
        self._folder, self._person = folder, unprivileged()
        if self._person:
            shutil.chown(folder, str(self._person["user"]))
        data = str(folder / "data")
        make = [str(initdb), "-D", data, "-U", "retort", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(make, cwd=folder, check=True, capture_output=True, **self._person)  # type: ignore[call-overload]
        off = ["fsync", "full_page_writes"] if durable else ["fsync", "full_page_writes", "synchronous_commit"]
        options = ["listen_addresses=127.0.0.1", "max_connections=200", *(f"{name}=off" for name in off)]
        given = [word for option in options for word in ("-c", option)]
        self._command = [str(postgres), "-D", data, "-p", str(self.port), "-k", str(folder), *given]

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # type: ignore[call-overload]
                self._command, cwd=self._folder, stdout=log, stderr=log, start_new_session=True, **self._person
            )
        wait_until(self._answers, "PostgreSQL starts")

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it: SIGINT drops its clients and stops in order, SIGQUIT at once, so that the next start recovers."""
        self.process = ended(self.process, number)

    def _answers(self) -> bool:
        with psycopg.connect(f"postgresql://retort@127.0.0.1:{self.port}/postgres") as connection:
            return not connection.broken


class Redis:
    """A server that keeps nothing, on one port from start to start."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if not program:
            absent("Redis")
        self.port = lasting_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None
        # Redis writes its title over its environment, and with it over the mark by which tests end their processes.
        kept = ("--set-proc-title", "no")
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder), *kept)
        self._command = [str(program), *options]

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, start_new_session=True)
        with self.client() as client:
            wait_until(client.ping, "Redis starts")

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process = ended(self.process, number)

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port)


def ended(process: subprocess.Popen[bytes] | None, number: int) -> None:
    """Send a process a signal and wait for its end; a second time it does nothing."""
    if process is not None and process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(START_SECONDS)
        finally:
            kill_tree(process)
