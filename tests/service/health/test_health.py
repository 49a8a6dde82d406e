"""Health: the process lives; database and broker answer or do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.db import get_engine
from service.migrations import downgrade
from service.revisions import head

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
