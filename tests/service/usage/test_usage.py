"""Limits of a project: what they are, and that nobody passes them, two at once neither."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select
from starlette.testclient import TestClient

from service.artifacts.repository import add_artifact
from service.blobs.references import blobs_of
from service.blobs.repository import begin_blob, commit_blob, drop_private, write_blob
from service.db import Base, reading, transaction
from service.errors import TooLarge, TooManyRequests
from service.jobs.models import JobRow
from service.projects.models import ProjectRow
from service.rates import Rates
from service.usage.service import check_part, check_upload
from tests.service.conftest import bearing


def project_id(name: str = "default") -> str:
    with reading() as session:
        return session.scalars(select(ProjectRow.id).where(ProjectRow.name == name)).one()


def limit(client: TestClient, **limits: Any) -> None:
    answer = client.patch(f"/v1/projects/{project_id()}", json=limits)
    assert answer.status_code == 200, answer.text


def jobs() -> int:
    with reading() as session:
        return session.scalars(select(func.count()).select_from(JobRow)).one()


def store(job_id: str, name: str, content: bytes) -> None:
    written = write_blob(io.BytesIO(content))
    with transaction() as session:
        blob = commit_blob(session, written)
        add_artifact(session, job_id, name=name, network="student", media_type="a/b", blob_id=blob)


def test_use_and_limits_are_shown(client: TestClient, recipe: dict[str, Any]) -> None:
    job = client.post("/v1/jobs", json=recipe).json()["id"]
    for name, content in (("a", b"x" * 1000), ("b", b"x" * 1000), ("c", b"y" * 10)):
        store(job, name, content)
    limit(client, max_running=2, max_stored_bytes=5000)
    assert client.get("/v1/usage").json() == {
        "project": "default",
        "limits": {
            "max_running": 2, "max_queued": 10_000, "max_stored_bytes": 5000, "max_upload_bytes": 20 * 2**30,
            "requests_per_second": 1000.0, "jobs_retention_days": None, "datasets_retention_days": None,
            "models_retention_days": None, "uploads_retention_days": 7.0,
        },
        "used": {"running": 0, "queued": 1, "stored_bytes": 1010},
    }  # fmt: skip


def test_a_blob_counts_in_each_project_that_refers_to_it(
    client: TestClient, stranger: TestClient, recipe: dict[str, Any]
) -> None:
    for one in (client, stranger):
        store(one.post("/v1/jobs", json=recipe).json()["id"], "a", b"same bytes")
    assert [one.get("/v1/usage").json()["used"]["stored_bytes"] for one in (client, stranger)] == [10, 10]


def test_every_table_that_refers_to_blobs_is_counted() -> None:
    referring = {
        table.name for table in Base.metadata.tables.values() for key in table.foreign_keys
        if key.column.table.name == "blobs"
    } - {"chunks"}  # fmt: skip
    counted = str(blobs_of("project_x"))
    assert not [name for name in referring if f"{name}.blob_id" not in counted]


def test_limits_are_set_one_by_one_and_taken_away(client: TestClient) -> None:
    limit(client, max_queued=7, requests_per_second=500)
    limit(client, max_queued=None)
    (project,) = client.get("/v1/projects").json()["items"]
    assert (project["max_queued"], project["requests_per_second"]) == (None, 500)
    assert client.get("/v1/usage").json()["limits"]["max_queued"] == 10_000
    for name in ("max_queued", "max_stored_bytes", "max_upload_bytes", "requests_per_second", "max_running"):
        for wrong in (0, -1, "many", 1e300):
            assert client.patch(f"/v1/projects/{project_id()}", json={name: wrong}).status_code == 422


def test_a_full_queue_takes_no_job(client: TestClient, recipe: dict[str, Any]) -> None:
    limit(client, max_queued=1)
    once = {"Idempotency-Key": "once"}
    first = client.post("/v1/jobs", json=recipe, headers=once)
    refused = client.post("/v1/jobs", json=recipe)
    assert (refused.status_code, refused.headers["Retry-After"], refused.json()["detail"]) == (
        429,
        "60",
        "the project has 1 queued job, which is as many as it may; send this one when one of them has started",
    )
    assert jobs() == 1
    again = client.post("/v1/jobs", json=recipe, headers=once)
    assert (again.status_code, again.json()["id"]) == (201, first.json()["id"])
    client.post(f"/v1/jobs/{first.json()['id']}/cancel")
    assert client.post("/v1/jobs", json=recipe).status_code == 201


def test_another_projects_queue_is_its_own(client: TestClient, stranger: TestClient, recipe: dict[str, Any]) -> None:
    limit(client, max_queued=1)
    for one in (client, stranger, stranger):
        assert one.post("/v1/jobs", json=recipe).status_code == 201


def test_two_at_once_do_not_take_one_place(client: TestClient, key: str, recipe: dict[str, Any]) -> None:
    limit(client, max_queued=3)
    clients = [bearing(key) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        statuses = sorted(pool.map(lambda one: one.post("/v1/jobs", json=recipe).status_code, clients))
    assert statuses == [201] * 3 + [429] * 5
    assert jobs() == 3


def test_repeats_at_once_of_who_took_the_last_place_get_its_job(
    client: TestClient, key: str, recipe: dict[str, Any]
) -> None:
    limit(client, max_queued=1)
    clients = [bearing(key) for _ in range(6)]
    once = {"Idempotency-Key": "once"}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda one: one.post("/v1/jobs", json=recipe, headers=once), clients))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_who_stores_too_much_makes_no_job_and_uploads_nothing(client: TestClient, recipe: dict[str, Any]) -> None:
    limit(client, max_stored_bytes=1000, max_upload_bytes=600)
    job = client.post("/v1/jobs", json=recipe).json()["id"]
    store(job, "a", b"x" * 500)
    with transaction() as session:
        check_upload(session, project_id(), 500)
    with (
        pytest.raises(TooLarge, match="the upload has 601 bytes; at most 600 bytes are taken"),
        transaction() as session,
    ):
        check_upload(session, project_id(), 601)
    room = "the project stores 500 bytes of the 1,000 that it may, so 501 more find no room"
    with pytest.raises(TooLarge, match=room), transaction() as session:
        check_upload(session, project_id(), 501)


def test_bytes_on_their_way_count(client: TestClient) -> None:
    limit(client, max_stored_bytes=1000)
    here = project_id()

    def begin(size: int, missing: int) -> str:
        with transaction() as session:
            check_part(session, here, size, missing)
            return begin_blob(session, draft_of=here, draft_bytes=size)

    def stored_now() -> int:
        return int(client.get("/v1/usage").json()["used"]["stored_bytes"])

    declared = {"name": "x.tar", "kind": "dataset", "size": 1000, "sha256": "0" * 64}
    assert client.post("/v1/uploads", json=declared).status_code == 201
    first = begin(600, 1000)  # of an upload that fits exactly
    begin(400, 1000)
    assert stored_now() == 2000
    # The same parts again, over connections that were not given up yet.
    with pytest.raises(TooManyRequests, match="send the part again in 5 s") as refused:
        begin(600, 1000)
    assert refused.value.headers == {"Retry-After": "5"}
    drop_private(first)
    begin(600, 1000)
    assert stored_now() == 2000
    assert client.post("/v1/uploads", json={**declared, "size": 1}).status_code == 413


def test_a_full_store_takes_no_job(client: TestClient, recipe: dict[str, Any]) -> None:
    other = client.post("/v1/projects", json={"name": "full"}).json()["id"]
    made = client.post("/v1/keys", json={"name": "k", "project": "full"}).json()["key"]
    client.patch(f"/v1/projects/{other}", json={"max_stored_bytes": 1})
    with transaction() as session:
        session.add(JobRow(id="job_x", project_id=other, spec={}, max_attempts=1, body_digest="", created_at=0.0))
    store("job_x", "a", b"xy")
    answer = bearing(made).post("/v1/jobs", json=recipe)
    assert (answer.status_code, answer.json()["detail"]) == (
        413,
        "the project stores 2 bytes of the 1 that it may; delete jobs, data sets or models first",
    )


def test_who_asks_too_often_is_told_when_to_ask_again(client: TestClient, stranger: TestClient) -> None:
    limit(client, requests_per_second=0.1)
    statuses = [client.get("/v1/jobs").status_code for _ in range(3)]
    refused = client.get("/v1/jobs")
    assert statuses[-1] == refused.status_code == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 10
    assert refused.json()["detail"].startswith(
        "the project sends more than 0.1 requests a second; send this one again in "
    )
    assert stranger.get("/v1/jobs").status_code == 200


def test_a_bucket_holds_a_burst_and_fills_again() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    assert [rates.take("a", 2) for _ in range(20)] == [0] * 20
    assert rates.take("a", 2) == 0.5
    assert rates.take("b", 2) == 0
    now = 0.5
    assert rates.take("a", 2) == 0
    assert rates.take("a", 2) == 0.5
    now = 1000.0
    assert [rates.take("a", 2) for _ in range(21)] == [0] * 20 + [0.5]
