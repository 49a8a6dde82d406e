"""Private servers and databases: each test gets a database of its own, made by the migrations.

PostgreSQL and Redis are started from the installed binaries on free ports, with folders that are thrown away. Where
one is not installed its tests skip; in CI that is a failure.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import redis
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from service.bell import get_bell
from service.db import get_engine, make_engine
from service.migrations import upgrade
from service.settings import get_settings

START_SECONDS = 30

# Tests run side by side, and so do the engines that they start: threads that spin for each other on a core that
# somebody else has make small networks ten times slower. Read by torch when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a shell starts in the background ignores SIGINT, and so would every program that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


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


def binary(name: str) -> str | None:
    """Where a program of PostgreSQL lies: on the path, or where Debian puts it."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(installed[-1]) if installed else None)


def unprivileged() -> dict[str, object]:
    """Arguments of subprocess that run a program as somebody else where we are root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    name = "postgres" if "postgres" in names else "nobody"
    return {"user": name, "group": pwd.getpwnam(name).pw_gid, "extra_groups": []}


def can_connect(address: str) -> bool:
    with psycopg.connect(address) as connection:
        return not connection.broken


@contextmanager
def postgresql(folder: Path, initdb: str, postgres: str) -> Iterator[str]:
    """A running server with an empty cluster; its URL without a database's name."""
    data, port, person = folder / "data", free_port(), unprivileged()
    if person:
        shutil.chown(folder, str(person["user"]))
    make = [initdb, "-D", str(data), "-U", "retort", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    subprocess.run(make, cwd=folder, check=True, capture_output=True, **person)  # type: ignore[call-overload]
    fast = [word for option in ("fsync", "synchronous_commit", "full_page_writes") for word in ("-c", f"{option}=off")]
    run = [postgres, "-D", str(data), "-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", *fast]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(run, cwd=folder, stdout=log, stderr=log, **person)  # type: ignore[call-overload]
    url = f"postgresql+psycopg://retort@127.0.0.1:{port}"
    try:
        address = f"postgresql://retort@127.0.0.1:{port}/postgres"
        wait_until(lambda: can_connect(address), "PostgreSQL starts")
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # SIGTERM would wait for clients to leave
        server.wait(START_SECONDS)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """URL of the session's PostgreSQL, whose database `migrated` was built by the migrations."""
    initdb, postgres = binary("initdb"), binary("postgres")
    if not (initdb and postgres):
        absent("PostgreSQL")
    with (
        tempfile.TemporaryDirectory(prefix="retort-postgresql-") as folder,
        postgresql(Path(folder), str(initdb), str(postgres)) as url,
    ):
        execute(url, "CREATE DATABASE migrated")
        engine = make_engine(f"{url}/migrated")
        upgrade(engine)
        engine.dispose()
        yield url


def execute(url: str, statement: str) -> None:
    """Run a statement that no transaction may hold, such as CREATE DATABASE."""
    engine = create_engine(f"{url}/postgres", isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file built by the migrations, to be copied."""
    file = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    engine = make_engine(f"sqlite:///{file}")
    upgrade(engine)
    engine.dispose()
    return file


@pytest.fixture
def sqlite_database(migrated_sqlite: Path, tmp_path: Path) -> str:
    """URL of a fresh, migrated SQLite file."""
    file = tmp_path / "retort.db"
    shutil.copyfile(migrated_sqlite, file)
    return f"sqlite:///{file}"


@pytest.fixture
def postgresql_database(postgresql_url: str) -> Iterator[str]:
    """URL of a fresh, migrated database in PostgreSQL."""
    name = f"retort_{uuid4().hex}"
    execute(postgresql_url, f"CREATE DATABASE {name} TEMPLATE migrated")
    yield f"{postgresql_url}/{name}"
    execute(postgresql_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh, migrated database: the test runs once on each kind."""
    return str(request.getfixturevalue(f"{request.param}_database"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[int]:
    """Port of the session's Redis."""
    program = shutil.which("redis-server")
    if not program:
        absent("Redis")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="retort-redis-") as folder:
        run = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        server = subprocess.Popen(run, stdout=subprocess.DEVNULL)
        try:
            with redis.Redis(port=port) as client:
                wait_until(client.ping, "Redis starts")
            yield port
        finally:
            server.terminate()
            server.wait(START_SECONDS)


@pytest.fixture
def redis_broker(redis_server: int) -> str:
    """URL of an empty Redis."""
    with redis.Redis(port=redis_server) as client:
        client.flushall()
    return f"redis://127.0.0.1:{redis_server}/0"


@pytest.fixture
def filesystem_broker() -> str:
    """The URL that stands for folders in the data directory."""
    return ""


@pytest.fixture(params=["filesystem", pytest.param("redis", marks=pytest.mark.server)])
def broker_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh broker: the test runs once on each kind."""
    return str(request.getfixturevalue(f"{request.param}_broker"))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets RETORT_* variables by name (`environment(lease_seconds=2)`); the data directory is the test's own.

    What the process made of the settings, its database engine among it, is forgotten at each call and at the end.
    """
    for name in [name for name in os.environ if name.startswith("RETORT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RETORT_DATA_DIR", str(tmp_path / "data"))

    def change(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"RETORT_{name.upper()}", str(value))
        forget_settings()

    forget_settings()
    yield change
    forget_settings()


def forget_settings() -> None:
    """Close the process's bell and database engine and forget them together with the settings."""
    if get_bell.cache_info().currsize:
        get_bell().close()
    get_bell.cache_clear()
    if get_engine.cache_info().currsize:
        get_engine().dispose()
    get_engine.cache_clear()
    get_settings.cache_clear()


@pytest.fixture
def database(database_url: str, environment: Callable[..., None]) -> str:
    """The process's settings name a fresh, migrated database; its URL. The test runs once on each kind."""
    environment(database_url=database_url)
    assert make_url(get_settings().database) == make_url(database_url)
    return database_url
