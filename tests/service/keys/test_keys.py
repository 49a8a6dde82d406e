"""Keys: made once, shown once, kept as a hash, gone at once when revoked."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from service.db import database_now, reading, transaction
from service.keys.models import Key
from service.keys.service import create_local_key, ensure_first_key
from service.settings import get_settings
from tests.service.conftest import bearing


def make(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/keys", json={"name": "new", **asked})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_made_key_opens_its_project_and_is_shown_once(client: TestClient) -> None:
    made = make(client)
    assert made["key"].startswith(made["prefix"] + "_")
    assert (made["name"], made["project"], made["admin"], made["revoked_at"]) == ("new", "default", False, None)
    assert bearing(made["key"]).get("/v1/jobs").status_code == 200
    listed = client.get("/v1/keys")
    assert made["key"] not in listed.text
    assert [item["name"] for item in listed.json()["items"]] == ["new", "test"]


def test_only_a_hash_is_stored(client: TestClient) -> None:
    text = make(client)["key"]
    with reading() as session:
        stored = [str(value) for row in session.execute(select(Key.__table__)) for value in row]
    assert not [value for value in stored if text.removeprefix("rt_")[9:] in value]


def test_revocation_works_at_once_and_twice(client: TestClient) -> None:
    made = make(client)
    caller = bearing(made["key"])
    assert caller.get("/v1/methods").status_code == 200
    for _ in range(2):
        assert client.delete(f"/v1/keys/{made['id']}").status_code == 204
    answer = caller.get("/v1/methods")
    assert (answer.status_code, answer.json()["detail"]) == (
        401,
        "the key is unknown or revoked; wanted one that `retort keys` lists as live",
    )
    assert next(k for k in client.get("/v1/keys").json()["items"] if k["id"] == made["id"])["revoked_at"]


def test_a_plain_key_makes_plain_keys_of_its_project_alone(client: TestClient, stranger: TestClient) -> None:
    made = make(stranger)
    assert (made["project"], made["admin"]) == ("elsewhere", False)
    assert make(stranger, project="elsewhere")["project"] == "elsewhere"
    for asked, detail in [
        ({"admin": True}, "this key is no admin's; only an admin key can make an admin key"),
        ({"project": "default"}, "this key opens project 'elsewhere'; only an admin key can make a key for another"),
        ({"project": "nope"}, "this key opens project 'elsewhere'; only an admin key can make a key for another"),
    ]:
        answer = stranger.post("/v1/keys", json={"name": "new", **asked})
        assert (answer.status_code, answer.json()["detail"]) == (403, detail)


def test_an_admin_makes_keys_for_any_project(client: TestClient, stranger_key: str) -> None:
    assert make(client, project="elsewhere", admin=True)["project"] == "elsewhere"
    answer = client.post("/v1/keys", json={"name": "new", "project": "nope"})
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no project 'nope'")


def test_another_projects_key_does_not_exist(client: TestClient, stranger: TestClient) -> None:
    made = make(client)
    assert [item["name"] for item in stranger.get("/v1/keys").json()["items"]] == ["stranger"]
    answer = stranger.delete(f"/v1/keys/{made['id']}")
    assert (answer.status_code, answer.json()["detail"]) == (404, f"there is no key '{made['id']}'")
    assert bearing(made["key"]).get("/v1/jobs").status_code == 200
    assert client.delete(f"/v1/keys/{stranger.get('/v1/keys').json()['items'][0]['id']}").status_code == 204


def test_a_wrong_body_is_told_by_field(client: TestClient) -> None:
    answer = client.post("/v1/keys", json={"name": "", "amdin": True})
    assert answer.status_code == 422
    assert {error["pointer"]: error["detail"] for error in answer.json()["errors"]} == {
        "/name": "name is ''; wanted at least 1 characters",
        "/amdin": "the body has no field 'amdin'; did you mean 'admin'?",
    }


def test_use_is_noted_once_a_minute_at_most(client: TestClient, key: str) -> None:
    def used_at() -> float | None:
        with reading() as session:
            return session.scalar(select(Key.used_at).where(Key.prefix == key[:11]))

    assert used_at() is None
    client.get("/v1/methods")
    first = used_at()
    client.get("/v1/methods")
    assert first is not None
    assert used_at() == first
    with transaction() as session:
        session.execute(update(Key).values(used_at=database_now() - 61))
    client.get("/v1/methods")
    assert (used_at() or 0) >= first


def test_pages_of_keys(client: TestClient) -> None:
    made = [make(client, name=f"k{i}")["id"] for i in range(5)]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = client.get("/v1/keys", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen[:5] == made[::-1]
    assert len(seen) == 6


def test_the_first_key_is_made_once_and_mends(database: str) -> None:
    file = get_settings().data_dir / "key"
    with transaction() as session:
        text = ensure_first_key(session)
    assert file.read_text().strip() == text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with transaction() as session:
        assert ensure_first_key(session) == text
    assert bearing(text).get("/v1/keys").json()["items"][0]["admin"] is True
    file.write_text("rt_of_another_database")
    with transaction() as session:
        mended = ensure_first_key(session)
    assert bearing(mended).get("/v1/jobs").status_code == 200
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("admin", [True, False])
def test_a_local_key_makes_its_project(database: str, admin: bool) -> None:
    with transaction() as session:
        text = create_local_key(session, "mine", "brand-new", admin=admin)
    (item,) = [k for k in bearing(text).get("/v1/keys").json()["items"] if k["name"] == "mine"]
    assert (item["project"], item["admin"]) == ("brand-new", admin)
