"""The audit log: who changed what, in the change's own transaction; and who was refused."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

from service.app import create_app
from service.audit import repository
from service.audit.models import AuditRow
from service.db import database_now, reading, transaction
from service.jobs.models import JobRow
from service.rates import Rates
from tests.service.conftest import bearing


@pytest.fixture(autouse=True)
def _calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals of other tests fill no bucket of this one's."""
    monkeypatch.setattr("service.audit.service._floods", Rates())


def entries(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = client.get("/v1/audit", params=query).json()["items"]
    return items


def told(client: TestClient) -> list[tuple[Any, ...]]:
    return [(entry["method"], entry["route"], entry["status"]) for entry in entries(client)[::-1]]


def test_a_change_is_told_with_who_and_what(client: TestClient, recipe: dict[str, Any]) -> None:
    answer = client.post("/v1/jobs", json=recipe)
    job = answer.json()["id"]
    client.post(f"/v1/jobs/{job}/cancel")
    (key,) = client.get("/v1/keys").json()["items"]
    cancelled, made = entries(client)
    assert (made["method"], made["route"], made["status"]) == ("POST", "/v1/jobs", 201)
    assert (made["about"], made["request_id"]) == ({"job_id": job}, answer.headers["X-Request-ID"])
    assert (made["key_id"], made["project_id"]) == (key["id"], client.get("/v1/projects").json()["items"][0]["id"])
    assert (cancelled["route"], cancelled["about"]) == ("/v1/jobs/{job_id}/cancel", {"job_id": job})


def test_what_an_admin_makes_is_named(client: TestClient) -> None:
    project = client.post("/v1/projects", json={"name": "vision"}).json()["id"]
    client.patch(f"/v1/projects/{project}", json={"max_queued": 5})
    key = client.post("/v1/keys", json={"name": "k", "project": "vision"}).json()["id"]
    newer = client.post(f"/v1/keys/{key}/rotate").json()["id"]
    client.delete(f"/v1/keys/{newer}")
    assert [entry["about"] for entry in entries(client)[::-1]] == [
        {"project_id": project}, {"project_id": project}, {"key_id": key}, {"key_id": key, "successor": newer},
        {"key_id": newer},
    ]  # fmt: skip


def test_reading_is_not_told(client: TestClient, recipe: dict[str, Any]) -> None:
    client.get("/v1/jobs")
    client.post("/v1/jobs/validate", json=recipe)
    client.head("/v1/jobs/job_x/artifacts/a")
    client.post("/v1/nothing")
    assert entries(client) == []


def test_refusals_are_told(client: TestClient, stranger: TestClient, recipe: dict[str, Any]) -> None:
    with TestClient(create_app()) as nobody:
        nobody.post("/v1/jobs", json=recipe)
    job = client.post("/v1/jobs", json=recipe).json()["id"]
    stranger.post("/v1/keys", json={"name": "k"})
    stranger.delete(f"/v1/jobs/{job}")
    client.post("/v1/jobs", json={})
    client.delete(f"/v1/jobs/{job}")
    assert told(client) == [
        ("POST", "/v1/jobs", 401), ("POST", "/v1/jobs", 201), ("POST", "/v1/keys", 403),
        ("DELETE", "/v1/jobs/{job_id}", 404), ("POST", "/v1/jobs", 422), ("DELETE", "/v1/jobs/{job_id}", 409),
    ]  # fmt: skip
    nobodys, *_, _ = entries(client)[::-1]
    assert (nobodys["key_id"], nobodys["project_id"]) == (None, None)


def test_a_change_without_its_entry_is_none(
    client: TestClient, recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("no room for another entry")

    with monkeypatch.context() as patched:
        patched.setattr(repository, "add", fail)
        assert client.post("/v1/jobs", json=recipe).status_code == 500
    with reading() as session:
        assert session.scalars(select(func.count()).select_from(JobRow)).one() == 0


def test_no_secret_is_told(client: TestClient, key: str) -> None:
    client.delete(f"/v1/keys/{key}")
    client.delete(f"/v1/jobs/{'x' * 5000}")
    long, secret = entries(client)
    assert secret["about"] == {"key_id": f"{key[:11]}_***"}
    assert len(long["about"]["job_id"]) == 100


def test_a_flood_of_wrong_keys_fills_no_table(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("service.audit.service._floods", Rates(lambda: now))
    with TestClient(create_app()) as nobody:
        for _ in range(15):
            assert nobody.delete("/v1/jobs/job_x").status_code == 401
        assert len(entries(client)) == 10
        now = 1.0
        nobody.delete("/v1/jobs/job_x")
    assert len(entries(client)) == 11


def test_entries_are_paged_and_chosen(client: TestClient, stranger_key: str, recipe: dict[str, Any]) -> None:
    for _ in range(3):
        client.delete("/v1/jobs/job_none")
    bearing(stranger_key).delete("/v1/jobs/job_theirs")
    first = client.get("/v1/audit", params={"limit": 3}).json()
    rest = client.get("/v1/audit", params={"limit": 3, "cursor": first["next_cursor"]}).json()
    assert [len(first["items"]), len(rest["items"]), rest["next_cursor"]] == [3, 1, None]
    (theirs,) = [entry for entry in first["items"] if entry["about"] == {"job_id": "job_theirs"}]
    assert entries(client, project=theirs["project_id"]) == [theirs]
    assert entries(client, key=theirs["key_id"]) == [theirs]


def test_old_entries_are_forgotten(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "ENTRIES_A_SWEEP", 2)
    for number in range(7):
        client.delete(f"/v1/jobs/job_{number}")
    with transaction() as session:
        old = update(AuditRow).where(AuditRow.id.in_([entry["id"] for entry in entries(client)[2:]]))
        session.execute(old.values(at=database_now() - 91 * 86_400))
    assert repository.sweep(90) == 5
    assert [entry["about"]["job_id"] for entry in entries(client)] == ["job_6", "job_5"]
