"""Health: the process lives; database and broker answer or do not."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable

import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from service.app import create_app
from service.db import DatabaseFull, get_engine, transaction
from service.migrations import downgrade
from service.revisions import head
from tests.service.conftest import on_sqlite
from tests.service.rows import add_project

Environment = Callable[..., None]


@pytest.fixture
def client(database: str) -> TestClient:
    return TestClient(create_app())


def test_all_is_well(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok", "database": "ok", "broker": "ok"}


def test_without_a_broker_it_is_degraded(client: TestClient, database_url: str, environment: Environment) -> None:
    environment(database_url=database_url, broker_url="redis://127.0.0.1:1/0")
    answer = client.get("/readyz")
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["database"]) == ("degraded", "ok")
    assert answer.json()["broker"].startswith("unreachable: ")


def test_a_database_that_was_not_migrated_is_not_ready(client: TestClient) -> None:
    downgrade(get_engine())
    answer = client.get("/readyz")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["detail"] == f"the database stands at migration none; {head()} is wanted, so migrate it"
    assert client.get("/healthz").status_code == 200


def test_without_a_database_it_is_not_ready(environment: Environment) -> None:
    environment(database_url="postgresql+psycopg://nobody@127.0.0.1:1/none")
    client = TestClient(create_app())
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "the database does not answer; ask again in 5 seconds"
    assert client.get("/healthz").status_code == 200


def fill_up() -> None:
    """Let the database of the process refuse a write, as on a full disk."""
    full = "PRAGMA query_only = 1" if get_engine().dialect.name == "sqlite" else "SET TRANSACTION READ ONLY"
    with transaction() as session:
        session.execute(text(full))
        with pytest.raises(DatabaseFull):
            session.execute(text("UPDATE projects SET name = 'x'"))
        session.rollback()


def test_a_database_that_took_nothing_is_not_ready_until_it_takes_something(client: TestClient) -> None:
    fill_up()
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["detail"] == "the database takes nothing: its disk is full, or it may only be read; make room"
    get_engine().dispose()
    with transaction() as session:
        session.execute(text("SELECT 1"))
    assert client.get("/readyz").status_code == 503
    add_project()
    assert client.get("/readyz").json()["status"] == "ok"


@on_sqlite
def test_a_full_disk_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", ("total", "used", "free"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(100, 100, 4096))
        answer = client.get("/readyz")
    wanted = "the disk of the database is full: 4,096 bytes are free, and 16,777,216 are wanted; make room"
    assert (answer.status_code, answer.json()["detail"]) == (503, wanted)

    def no_room(*_: object, **__: object) -> None:
        raise OSError(122, "Disk quota exceeded")

    monkeypatch.setattr("tempfile.TemporaryFile", no_room)
    detail = client.get("/readyz").json()["detail"]
    assert detail == "the folder of the database takes no file: Disk quota exceeded; make room"
