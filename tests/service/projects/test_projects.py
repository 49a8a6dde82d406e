"""Projects: an admin makes them, everybody else sees their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from starlette.testclient import TestClient

from tests.service.conftest import bearing


def names(client: TestClient) -> list[str]:
    return [item["name"] for item in client.get("/v1/projects").json()["items"]]


def test_an_admin_makes_and_sees_all_projects(client: TestClient, stranger: TestClient) -> None:
    answer = client.post("/v1/projects", json={"name": "vision"})
    assert (answer.status_code, answer.json()["name"]) == (201, "vision")
    assert answer.json()["id"].startswith("project_")
    assert names(client) == ["vision", "elsewhere", "default"]
    assert names(stranger) == ["elsewhere"]


def test_names_are_unique(client: TestClient) -> None:
    answer = client.post("/v1/projects", json={"name": "default"})
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        "there is a project 'default' already; names are unique",
    )


def test_of_requests_at_once_one_makes_it(key: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: bearing(key).post("/v1/projects", json={"name": "same"}), range(4)))
    assert sorted(answer.status_code for answer in made) == [201, 409, 409, 409]


def test_who_is_no_admin_makes_none(stranger: TestClient) -> None:
    answer = stranger.post("/v1/projects", json={"name": "mine"})
    assert (answer.status_code, answer.json()["detail"]) == (
        403,
        "this key may jobs:read jobs:write data:write; admin is wanted here",
    )


def test_a_name_has_a_form(client: TestClient) -> None:
    answer = client.post("/v1/projects", json={"name": "My Project"})
    assert answer.status_code == 422
    assert answer.json()["detail"] == ("name is 'My Project'; wanted text that matches ^[a-z0-9][a-z0-9._-]{0,63}$")


def test_an_admin_limits_how_many_jobs_run_at_once(client: TestClient, stranger: TestClient) -> None:
    project_id = client.post("/v1/projects", json={"name": "vision"}).json()["id"]
    changed = client.patch(f"/v1/projects/{project_id}", json={"max_running": 2})
    assert (changed.status_code, changed.json()["max_running"]) == (200, 2)
    assert client.get("/v1/projects").json()["items"][0]["max_running"] == 2
    assert client.patch(f"/v1/projects/{project_id}", json={"max_running": None}).json()["max_running"] is None
    assert stranger.patch(f"/v1/projects/{project_id}", json={"max_running": 2}).status_code == 403
    assert client.patch("/v1/projects/project_none", json={"max_running": 2}).status_code == 404
    for wrong in ({}, {"max_running": 0}, {"max_running": "two"}, {"name": "other"}):
        assert client.patch(f"/v1/projects/{project_id}", json=wrong).status_code == 422
