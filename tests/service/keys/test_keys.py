"""Keys: made once, shown once, kept as a hash, gone at once when revoked."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from starlette.testclient import TestClient

from service.db import database_now, get_engine, reading, transaction
from service.keys.models import KeyRow
from service.keys.service import create_local_key, ensure_first_key
from service.migrations import downgrade, upgrade
from service.settings import get_settings
from tests.service.conftest import bearing

NO_KEY = "the key is unknown, revoked or expired; wanted one that `retort keys` lists as live"


def make(client: TestClient, **asked: Any) -> dict[str, Any]:
    answer = client.post("/v1/keys", json={"name": "new", **asked})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_a_made_key_opens_its_project_and_is_shown_once(client: TestClient) -> None:
    made = make(client)
    assert made["key"].startswith(made["prefix"] + "_")
    assert (made["name"], made["project"], made["expires_at"], made["revoked_at"]) == ("new", "default", None, None)
    assert made["scopes"] == ["jobs:read", "jobs:write", "data:write"]
    assert bearing(made["key"]).get("/v1/jobs").status_code == 200
    listed = client.get("/v1/keys")
    assert made["key"] not in listed.text
    assert [item["name"] for item in listed.json()["items"]] == ["new", "test"]


def test_only_a_hash_is_stored(client: TestClient) -> None:
    text = make(client)["key"]
    with reading() as session:
        stored = [str(value) for row in session.execute(select(KeyRow.__table__)) for value in row]
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
        NO_KEY,
    )
    assert next(k for k in client.get("/v1/keys").json()["items"] if k["id"] == made["id"])["revoked_at"]


def test_only_an_admin_makes_keys(client: TestClient, stranger: TestClient) -> None:
    answer = stranger.post("/v1/keys", json={"name": "new"})
    assert (answer.status_code, answer.json()["detail"]) == (
        403,
        "this key may jobs:read jobs:write data:write; admin is wanted here",
    )
    assert make(client, scopes=["jobs:read", "admin"])["scopes"] == ["admin"]


def test_an_admin_makes_keys_for_any_project(client: TestClient, stranger_key: str) -> None:
    assert make(client, project="elsewhere")["project"] == "elsewhere"
    answer = client.post("/v1/keys", json={"name": "new", "project": "nope"})
    assert (answer.status_code, answer.json()["detail"]) == (404, "there is no project 'nope'")


def test_a_key_may_do_what_its_scopes_say(client: TestClient, recipe: dict[str, Any]) -> None:
    writer = bearing(make(client, scopes=["jobs:write"])["key"])
    assert writer.post("/v1/jobs", json=recipe).status_code == 201
    assert writer.get("/v1/jobs").json()["detail"] == "this key may jobs:write; jobs:read is wanted here"
    reader = bearing(make(client, scopes=["jobs:read"])["key"])
    assert len(reader.get("/v1/jobs").json()["items"]) == 1
    assert reader.post("/v1/jobs", json=recipe).status_code == 403
    for wrong in ([], ["jobs"], "jobs:read", None):
        assert client.post("/v1/keys", json={"name": "new", "scopes": wrong}).status_code == 422


def test_a_key_ends_by_itself(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    made = make(client, expires_at=in_an_hour.isoformat())
    assert datetime.fromisoformat(made["expires_at"]) == in_an_hour
    assert bearing(made["key"]).get("/v1/jobs").status_code == 200
    monkeypatch.setattr("service.db.clock_offset_seconds", 3601.0)
    answer = bearing(made["key"]).get("/v1/jobs")
    assert (answer.status_code, answer.json()["detail"]) == (401, NO_KEY)
    assert client.post(f"/v1/keys/{made['id']}/rotate").json()["detail"] == (
        f"key {made['id']} is expired; only a live key can be rotated, so make a new one"
    )


@pytest.mark.parametrize("wrong", ["2020-01-01T00:00:00Z", "tomorrow", "2999-01-01T00:00:00", 1e300])
def test_an_end_lies_ahead_and_names_its_zone(client: TestClient, wrong: Any) -> None:
    answer = client.post("/v1/keys", json={"name": "new", "expires_at": wrong})
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/expires_at"]


def test_rotation_makes_a_successor_and_gives_the_old_key_a_while(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = (datetime.now(UTC) + timedelta(days=10)).isoformat()
    old = make(client, name="robot", project="default", scopes=["jobs:read"], expires_at=ends)
    answer = client.post(f"/v1/keys/{old['id']}/rotate", params={"grace_seconds": 60})
    new = answer.json()
    assert (answer.status_code, new["replaces"], new["scopes"], new["name"]) == (201, old["id"], ["jobs:read"], "robot")
    assert datetime.fromisoformat(new["expires_at"]) >= datetime.fromisoformat(ends)
    assert [bearing(one["key"]).get("/v1/jobs").status_code for one in (old, new)] == [200, 200]
    again = client.post(f"/v1/keys/{old['id']}/rotate")
    assert (again.status_code, again.json()["detail"]) == (
        409,
        f"key {old['id']} was rotated before; its successor {new['id']} can be",
    )
    monkeypatch.setattr("service.db.clock_offset_seconds", 61.0)
    assert [bearing(one["key"]).get("/v1/jobs").status_code for one in (old, new)] == [401, 200]
    assert client.post(f"/v1/keys/{new['id']}/rotate", params={"grace_seconds": 0}).status_code == 201
    assert bearing(new["key"]).get("/v1/jobs").status_code == 401
    client.delete(f"/v1/keys/{old['id']}")
    assert client.post(f"/v1/keys/{old['id']}/rotate").json()["detail"].startswith(f"key {old['id']} is revoked;")
    assert client.post("/v1/keys/key_none/rotate").status_code == 404
    assert client.post(f"/v1/keys/{old['id']}/rotate", params={"grace_seconds": 10**9}).status_code == 422


def test_rotations_at_once_make_one_successor(client: TestClient, key: str) -> None:
    old = make(client)["id"]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: bearing(key).post(f"/v1/keys/{old}/rotate"), range(4)))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]


def test_a_wrong_body_is_told_by_field(client: TestClient) -> None:
    answer = client.post("/v1/keys", json={"name": "", "scopse": []})
    assert answer.status_code == 422
    assert {error["pointer"]: error["detail"] for error in answer.json()["errors"]} == {
        "/name": "name is ''; wanted at least 1 characters",
        "/scopse": "the body has no field 'scopse'; did you mean 'scopes'?",
    }


def test_use_is_noted_once_a_minute_at_most(client: TestClient, key: str) -> None:
    def used_at() -> float | None:
        with reading() as session:
            return session.scalar(select(KeyRow.used_at).where(KeyRow.prefix == key[:11]))

    assert used_at() is None
    client.get("/v1/methods")
    first = used_at()
    client.get("/v1/methods")
    assert first is not None
    assert used_at() == first
    with transaction() as session:
        session.execute(update(KeyRow).values(used_at=database_now() - 61))
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
    assert bearing(text).get("/v1/keys").json()["items"][0]["scopes"] == ["admin"]
    file.write_text("rt_of_another_database")
    with transaction() as session:
        mended = ensure_first_key(session)
    assert bearing(mended).get("/v1/jobs").status_code == 200
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_local_key_makes_its_project(database: str, key: str) -> None:
    with transaction() as session:
        create_local_key(session, "mine", "brand-new", scopes=["jobs:read"])
    (item,) = [k for k in bearing(key).get("/v1/keys").json()["items"] if k["name"] == "mine"]
    assert (item["project"], item["scopes"]) == ("brand-new", ["jobs:read"])


def test_older_code_opens_to_no_key_more_than_it_may(client: TestClient, database: str) -> None:
    ends = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    made = {
        "all": make(client), "less": make(client, scopes=["jobs:read"]), "ending": make(client, expires_at=ends),
        "admin": make(client, scopes=["admin"]),
    }  # fmt: skip
    downgrade(get_engine(), "0003")
    with get_engine().connect() as connection:
        revoked = connection.exec_driver_sql("SELECT id FROM keys WHERE revoked_at IS NOT NULL").scalars().all()
    assert set(revoked) == {made["less"]["id"], made["ending"]["id"]}
    upgrade(get_engine())
    assert client.get("/v1/keys").status_code == 200
    assert bearing(made["all"]["key"]).get("/v1/jobs").status_code == 200
