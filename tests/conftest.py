"""Private servers and databases: each test gets a database of its own, made by the migrations.

PostgreSQL and Redis are started from the installed binaries on free ports, with folders that are thrown away. Where
one is not installed its tests skip; in CI that is a failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from service.db import get_engine, make_engine
from service.migrations import upgrade
from service.settings import get_settings
from service.wake_up import get_sender
from tests.processes import MARK, end_with_this_process
from tests.servers import PostgreSQL, Redis, free_port, in_memory, wait_until
from tests.up import Up, start_up

__all__ = ["free_port", "wait_until"]

# Tests run side by side, and so do the engines that they start: threads that spin for each other on a core that
# somebody else has make small networks ten times slower. Read by torch when it is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a shell starts in the background ignores SIGINT and SIGQUIT, and so would every program that the tests start and
# end by them.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# Hundreds of interpreters are started, and each would compile hundreds of files anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Tests that are stopped, killed even, leave no process behind.
end_with_this_process()


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """URL of the session's PostgreSQL, whose database `migrated` was built by the migrations."""
    with tempfile.TemporaryDirectory(prefix=f"retort-{os.environ.get(MARK, '')}-", dir=in_memory()) as folder:
        server = PostgreSQL(Path(folder))
        try:
            server.start()
            execute(server.url, "CREATE DATABASE migrated")
            engine = make_engine(f"{server.url}/migrated")
            upgrade(engine)
            engine.dispose()
            yield server.url
        finally:
            server.stop()


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
    execute(postgresql_url, f"CREATE DATABASE {name} TEMPLATE migrated STRATEGY FILE_COPY")  # half the time
    yield f"{postgresql_url}/{name}"
    execute(postgresql_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.server)])
def database_url(request: pytest.FixtureRequest) -> str:
    """URL of a fresh, migrated database: the test runs once on each kind."""
    return str(request.getfixturevalue(f"{request.param}_database"))


@pytest.fixture(scope="session")
def redis_server() -> Iterator[int]:
    """Port of the session's Redis."""
    with tempfile.TemporaryDirectory(prefix="retort-redis-") as folder:
        server = Redis(Path(folder))
        try:
            server.start()
            yield server.port
        finally:
            server.stop()


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
    """Close the process's sender of wake-ups and database engine and forget them together with the settings."""
    if get_sender.cache_info().currsize:
        get_sender().close()
    get_sender.cache_clear()
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


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A `retort up` of this test's own."""
    running = start_up(tmp_path / "up")
    yield running
    if running.process.poll() is None:
        running.stop()


@pytest.fixture(scope="session")
def shared_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """A `retort up` for all tests that need none of their own; each finds what others left in it."""
    running = start_up(tmp_path_factory.mktemp("shared") / "up")
    yield running
    running.stop()
