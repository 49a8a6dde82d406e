"""Listing, reading, waiting, cancelling, deleting."""

from __future__ import annotations

import base64
import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from starlette.testclient import TestClient

import service.jobs.waiting
from retort.kinds import KINDS
from service.claims.repository import LostLease, claim_best, write
from service.db import database_now, reading, transaction
from service.errors import Conflict
from service.jobs import rules
from service.jobs.models import TERMINAL, EventRow, JobRow, JobTagRow, State, Wanted
from service.jobs.repository import Queue
from service.jobs.waiting import turns
from service.workers.repository import Machine, see
from tests.service.conftest import bearing, on_sqlite


@pytest.fixture(autouse=True)
def fresh_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.jobs.waiting, "_taken", None)


def make(client: TestClient, recipe: dict[str, Any], **change: Any) -> str:
    answer = client.post("/v1/jobs", json={**recipe, **change})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def put(job_id: str, **values: Any) -> None:
    with transaction() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))


def ids(client: TestClient, query: str = "") -> list[str]:
    answer = client.get(f"/v1/jobs{query}")
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def kinds(client: TestClient, job_id: str) -> list[str]:
    return [event["kind"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]


# Lists


def test_filters_by_state_name_and_tag(client: TestClient, recipe: dict[str, Any]) -> None:
    a = make(client, recipe, name="one", tags=["x", "y"])
    b = make(client, recipe, name="two", tags=["x"])
    c = make(client, recipe, name="two")
    put(a, state=State.succeeded)
    put(c, state=State.failed)
    assert ids(client) == [c, b, a]
    assert ids(client, "?state=queued") == [b]
    assert ids(client, "?state=succeeded&state=failed") == [c, a]
    assert ids(client, "?name=two") == [c, b]
    assert ids(client, "?name=tw") == []
    assert ids(client, "?tag=x") == [b, a]
    assert ids(client, "?tag=x&tag=y") == [a]
    assert ids(client, "?tag=x&state=queued&name=two") == [b]
    put(b, kind="greet")
    assert ids(client, "?kind=distill") == [c, a]


def test_pages_are_stable_while_jobs_are_added(client: TestClient, recipe: dict[str, Any]) -> None:
    made = [make(client, recipe) for _ in range(5)]
    with transaction() as session:  # of the same moment, too, each comes once
        session.execute(update(JobRow).where(JobRow.id.in_(made[:4])).values(created_at=database_now() - 10))
    with transaction() as session:
        session.execute(update(JobRow).values(created_at=session.scalar(select(func.min(JobRow.created_at)))))
    seen, cursor = [], None
    for _ in range(3):
        page = client.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        make(client, recipe)
    assert seen == sorted(made, reverse=True)
    assert cursor is None


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_a_cursor_beyond_all_numbers_does_no_harm(client: TestClient) -> None:
    for position, status in (('[1e999, "a"]', 200), (f'[{10**300}, "a"]', 422)):
        assert client.get("/v1/jobs", params={"cursor": encoded(position)}).status_code == status


KIND_WANTED = f"kind is 'distil': 'distil' is not a kind of job; wanted {' or '.join(KINDS)}; did you mean 'distill'?"


@pytest.mark.parametrize(
    ("query", "parameter", "detail"),
    [
        ("limit=0", "limit", "limit is '0'; wanted at least 1"),
        ("limit=201", "limit", "limit is '201'; wanted at most 200"),
        ("limit=many", "limit", "limit is 'many'; wanted a whole number"),
        (
            "state=done",
            "state",
            "state is 'done'; wanted 'queued', 'running', 'paused', 'succeeded', 'failed' or 'cancelled'",
        ),
        ("kind=distil", "kind", KIND_WANTED),
        ("stat=queued", "stat", "there is no parameter 'stat' here"),
        *(
            (
                f"cursor={cursor}",
                "cursor",
                "the cursor is none that this list gave; wanted next_cursor of the part before, or no cursor",
            )
            for cursor in ("zzz", "%E2%98%83", *map(encoded, ("null", "{}", "[1]", "[1, 2]", '[1.0, "\\ud800"]')))
        ),
    ],
)
@on_sqlite
def test_a_wrong_query_is_told(client: TestClient, query: str, parameter: str, detail: str) -> None:
    answer = client.get(f"/v1/jobs?{query}")
    assert (answer.status_code, answer.json()["detail"]) == (422, detail)
    assert answer.json()["errors"][0]["parameter"] == parameter
    assert "pointer" not in answer.json()["errors"][0]


# Another project's job does not exist


def test_another_projects_job_does_not_exist(client: TestClient, stranger: TestClient, recipe: dict[str, Any]) -> None:
    theirs = make(stranger, recipe)
    assert ids(client) == []
    for method, path in [
        ("GET", ""),
        ("DELETE", ""),
        ("POST", "/cancel"),
        ("GET", "/events"),
        ("GET", "/metrics"),
        ("GET", "/artifacts"),
        ("GET", "/artifacts/student.onnx"),
    ]:
        found = client.request(method, f"/v1/jobs/{theirs}{path}")
        unknown = client.request(method, f"/v1/jobs/job_0{path}")
        assert (found.status_code, unknown.status_code) == (404, 404), path
        assert found.json()["detail"] == f"there is no job '{theirs}'"
        assert unknown.json()["detail"] == "there is no job 'job_0'"
    assert client.head(f"/v1/jobs/{theirs}/artifacts/student.onnx").status_code == 404
    assert stranger.get(f"/v1/jobs/{theirs}").json()["state"] == "queued"


# What a worker writes is shown


def test_a_running_job_shows_what_its_worker_wrote(client: TestClient, recipe: dict[str, Any]) -> None:
    job_id = make(client, recipe)
    progress = {"line": "progress", "phase": "distilling", "network": "student", "epoch": 1, "epochs": 2}
    error = {"fault": "machine", "cause": "signal 9", "detail": "the engine was killed"}
    with transaction() as session:
        claim = claim_best(session, "worker-1", 60, Machine())
        assert claim is not None
        write(
            session, claim, phase="distilling", progress=progress, error=error,
            latest={"student": {"validation.accuracy": 0.5}},
        )  # fmt: skip
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["phase"], job["attempt"], job["waiting"]) == ("running", "distilling", 1, None)
    assert job["progress"] == {k: v for k, v in progress.items() if k != "line"}
    assert job["latest"] == {"student": {"validation.accuracy": 0.5}}
    assert job["error"] == error
    assert job["started_at"] is not None
    (listed,) = client.get("/v1/jobs").json()["items"]
    assert listed == {k: v for k, v in job.items() if k not in ("spec", "waiting")}


# Waiting


def test_a_queued_job_says_why_it_waits(client: TestClient, recipe: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(service.jobs.waiting, "FRESH_SECONDS", 0.0)
    first, second, third = (make(client, recipe) for _ in range(3))
    urgent = make(client, recipe, priority=5)

    def waiting(job_id: str) -> tuple[int, int, str]:
        said = client.get(f"/v1/jobs/{job_id}").json()["waiting"]
        return said["position"], said["workers"], said["reason"]

    assert waiting(first) == (2, 0, "no worker is alive; the job starts once there is one")
    with transaction() as session:
        see(session, "worker-1", host="here", job_id=None, machine=Machine(memory_bytes=2**30, disk_bytes=2**40))
    assert waiting(urgent) == (1, 1, "it is next; a worker takes it in a moment")
    assert waiting(first) == (2, 1, "1 job is before it; 0 of 1 worker is busy")
    assert waiting(third) == (4, 1, "3 jobs are before it; 0 of 1 worker is busy")
    put(second, not_before=database_now() + 50)
    position, _, reason = waiting(second)
    assert position == 3
    assert reason == "the last attempt failed through the machine; the next one starts in 50 s"


def test_the_snapshot_is_taken_once_a_second_at_most(client: TestClient, recipe: dict[str, Any]) -> None:
    first = make(client, recipe)
    taken = service.jobs.waiting._taken
    for _ in range(3):
        assert client.get(f"/v1/jobs/{first}").json()["waiting"]["position"] == 1
    late = make(client, recipe)
    assert client.get(f"/v1/jobs/{late}").json()["waiting"]["position"] == 2
    assert taken is not None
    assert service.jobs.waiting._taken is taken
    time.sleep(1.01)
    client.get(f"/v1/jobs/{first}")
    assert service.jobs.waiting._taken is not taken


def test_projects_take_turns() -> None:
    counts, served = {"a": 3, "b": 1, "c": 2}, {"a": 2.0, "b": 1.0, "c": 3.0}
    jobs = [(f"{name}{i}", name) for name, count in counts.items() for i in range(count)]
    assert turns(Queue(jobs, served, {})) == {"b0": 1, "a0": 2, "c0": 3, "a1": 4, "c1": 5, "a2": 6}
    assert turns(Queue([], served, {})) == {}


def test_turns_are_those_that_workers_take(
    client: TestClient, stranger: TestClient, recipe: dict[str, Any], monkeypatch: Any
) -> None:
    monkeypatch.setattr(service.jobs.waiting, "FRESH_SECONDS", 0.0)
    made = [make(client, recipe), make(client, recipe, priority=1), make(stranger, recipe), make(client, recipe)]
    told = {
        job_id: (stranger if job_id == made[2] else client).get(f"/v1/jobs/{job_id}").json()["waiting"]["position"]
        for job_id in made
    }
    taken = []
    for _ in made:
        with transaction() as session:
            claim = claim_best(session, "worker-1", 60, Machine())
            assert claim is not None
            taken.append(claim.job_id)
    assert {job_id: place for place, job_id in enumerate(taken, start=1)} == told


# Cancel


def test_a_queued_job_is_cancelled_at_once_and_again_without_harm(client: TestClient, recipe: dict[str, Any]) -> None:
    job_id = make(client, recipe)
    first = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (first.status_code, first.json()["state"], first.json()["terminal"]) == (200, "cancelled", True)
    assert first.json()["ended_at"] is not None
    again = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (again.status_code, again.json()) == (200, first.json())
    assert kinds(client, job_id) == ["created", "cancelled"]
    with transaction() as session:
        assert claim_best(session, "worker-1", 60, Machine()) is None


def test_cancelling_a_running_job_is_a_wish(client: TestClient, recipe: dict[str, Any]) -> None:
    job_id = make(client, recipe)
    with transaction() as session:
        claim = claim_best(session, "worker-1", 60, Machine())
    assert claim is not None
    for _ in range(2):
        job = client.post(f"/v1/jobs/{job_id}/cancel").json()
        assert (job["state"], job["wanted"], job["terminal"]) == ("running", "cancel", False)
    assert kinds(client, job_id) == ["created", "cancel_wanted"]
    with transaction() as session:
        assert write(session, claim, phase="preparing").wanted is Wanted.cancel


def test_a_running_job_that_no_worker_holds_is_cancelled_at_once(client: TestClient, recipe: dict[str, Any]) -> None:
    job_id = make(client, recipe)
    with transaction() as session:
        claim = claim_best(session, "worker-1", -1, Machine())
    assert claim is not None
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"
    with pytest.raises(LostLease), transaction() as session:
        write(session, claim, phase="preparing")


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_what_has_ended_cannot_be_cancelled(client: TestClient, recipe: dict[str, Any], state: str) -> None:
    job_id = make(client, recipe)
    put(job_id, state=State(state))
    answer = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        f"job {job_id} is {state}; it cannot be cancelled any more",
    )


# Delete


def test_only_what_has_ended_is_deleted_with_all_that_it_has(client: TestClient, recipe: dict[str, Any]) -> None:
    job_id = make(client, recipe, tags=["x"])
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.json()["detail"]) == (
        409,
        f"job {job_id} is queued; only a job that has ended can be deleted, so cancel it first",
    )
    client.post(f"/v1/jobs/{job_id}/cancel")
    answer = client.delete(f"/v1/jobs/{job_id}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.get(f"/v1/jobs/{job_id}").status_code == 404
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 404
    with reading() as session:
        for table in (JobRow, JobTagRow, EventRow):
            assert session.scalar(select(func.count()).select_from(table)) == 0


# Rules


def test_nothing_follows_a_final_state_and_every_other_leads_to_one() -> None:
    assert set(rules.MAY_FOLLOW) == set(State)
    for old, new, asker in itertools.product(TERMINAL, State, rules.Asker):
        with pytest.raises(Conflict):
            rules.check_follow("job_1", old, new, asker)
    reached = set(TERMINAL)
    for _ in State:
        reached |= {old for old, following in rules.MAY_FOLLOW.items() if reached & following.keys()}
    assert reached == set(State)


def test_owners_hold_back_and_end_and_workers_alone_run() -> None:
    for old, new in itertools.product(State, State):
        owners = rules.may_follow(old, new, rules.Asker.owner)
        if old in TERMINAL:
            assert not owners
        elif new is State.cancelled:
            assert owners
        elif new is State.paused:
            assert owners is (old is not State.paused)
        else:
            assert owners is (old is State.paused and new is State.queued)
    assert rules.may_follow(State.queued, State.running, rules.Asker.worker)


def test_the_page_on_reliability_draws_the_rules() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reliability.md").read_text()
    assert f"```mermaid\n{rules.diagram()}\n```" in page


def test_keys_of_one_project_see_the_same_jobs(client: TestClient, recipe: dict[str, Any]) -> None:
    job_id = make(client, recipe)
    other = bearing(client.post("/v1/keys", json={"name": "second"}).json()["key"])
    assert ids(other) == [job_id]
