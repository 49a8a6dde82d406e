"""Metrics: what a scrape says against what is so."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event
from starlette.testclient import TestClient

from docs.operations import PAGE
from service import metrics
from service.app import create_app
from service.db import database_now, get_engine, transaction
from service.health import fleet
from service.jobs.models import State
from service.migrations import downgrade
from service.workers.models import WorkerRow
from tests.service.conftest import Server, on_sqlite
from tests.service.rows import add_job, add_project

Environment = Callable[..., None]
Start = Callable[..., Server]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(answer: httpx2.Response) -> Samples:
    """Every number of a scrape by its name and labels."""
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    families = text_string_to_metric_families(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def value(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


@pytest.fixture
def client(database: str) -> TestClient:
    return TestClient(create_app())


def add_worker(name: str, *, seconds_ago: float, job_id: str | None = None) -> None:
    with transaction() as session:
        now = session.scalars(database_now().select()).one()
        session.add(WorkerRow(id=name, host="here", job_id=job_id, started_at=now - 900, seen_at=now - seconds_ago))


def test_jobs_and_workers_are_counted(client: TestClient) -> None:
    project = add_project()
    add_job(project, age=400)
    add_job(project, age=4000, not_before=now() - 100)
    add_job(project, state=State.succeeded, age=9000)
    held = add_job(project, state=State.running, lease_owner="a", lease_ends=now() + 30, age=5000)
    add_job(project, state=State.running, lease_owner="b", lease_ends=now() - 1)
    add_worker("a", seconds_ago=1, job_id=held)
    add_worker("b", seconds_ago=1000)
    add_worker("c", seconds_ago=2)
    add_worker("d", seconds_ago=3)
    found = samples(client.get("/metrics"))
    jobs = {state: value(found, "retort_jobs", state=state.value) for state in State}
    assert jobs == {**dict.fromkeys(State, 0), State.queued: 2, State.running: 2, State.succeeded: 1}
    assert value(found, "retort_jobs_left_behind") == 1
    assert value(found, "retort_oldest_queued_job_seconds") == pytest.approx(400, abs=20)
    assert (value(found, "retort_workers", state="busy"), value(found, "retort_workers", state="idle")) == (1, 2)
    assert (value(found, "retort_database_up"), value(found, "retort_broker_up")) == (1, 1)


def now() -> float:
    with transaction() as session:
        return session.scalars(database_now().select()).one()


def test_an_empty_service_tells_zeros(client: TestClient) -> None:
    found = samples(client.get("/metrics"))
    assert value(found, "retort_oldest_queued_job_seconds") == 0
    assert {value(found, "retort_jobs", state=state.value) for state in State} == {0}
    assert {value(found, "retort_workers", state=word) for word in ("idle", "busy")} == {0}


def test_many_scrapes_at_once_ask_the_database_once(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    client.get("/metrics")
    monkeypatch.setattr(fleet, "FRESH_SECONDS", 60.0)
    asked: list[str] = []
    event.listen(get_engine(), "before_cursor_execute", lambda *words: asked.append(words[2]))
    threads = [threading.Thread(target=client.get, args=("/metrics",)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == []
    monkeypatch.setattr(fleet, "FRESH_SECONDS", 0.0)
    add_job(add_project())
    asked.clear()
    assert value(samples(client.get("/metrics")), "retort_jobs", state="queued") == 1
    assert asked


@pytest.mark.parametrize("broken", ["away", "not migrated"])
def test_without_a_database_it_says_so_and_tells_the_rest(
    client: TestClient, environment: Environment, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    if broken == "away":
        environment(database_url="postgresql+psycopg://me:hidden@127.0.0.1:1/none")
    else:
        downgrade(get_engine())
    found = samples(client.get("/metrics"))
    assert value(found, "retort_database_up") == 0
    assert value(found, "retort_broker_up") == 1
    assert not [name for name, _ in found if name.startswith(("retort_jobs", "retort_oldest", "retort_workers"))]
    assert value(found, "retort_http_requests_in_progress") is not None
    assert "metrics without the database: " in caplog.text
    assert "hidden" not in caplog.text


@on_sqlite
def test_without_a_broker_it_says_so(client: TestClient, database_url: str, environment: Environment) -> None:
    environment(database_url=database_url, broker_url="redis://127.0.0.1:1/0")
    found = samples(client.get("/metrics"))
    assert (value(found, "retort_database_up"), value(found, "retort_broker_up")) == (1, 0)


@on_sqlite
def test_requests_are_counted_by_route_and_never_by_what_a_caller_wrote(key: str, start: Start) -> None:
    server = start()
    headers = {"Authorization": f"Bearer {key}"}
    for number, word in enumerate(("PROPFIND", "MKCOL", "REPORT")):
        assert httpx2.get(f"{server.url}/v1/jobs/job_{number}", headers=headers).status_code == 404
        assert httpx2.get(f"{server.url}/nowhere/{number}").status_code == 404
        assert httpx2.request(word, f"{server.url}/v1/jobs").status_code == 405
    sent = httpx2.post(f"{server.url}/v1/jobs", headers=headers, content=b"x" * 5000)
    found = samples(httpx2.get(f"{server.url}/metrics"))
    route = "/v1/jobs/{job_id}"
    assert value(found, "retort_http_requests_total", route=route, method="GET", status="404") == 3
    assert value(found, "retort_http_requests_total", route="none", method="GET", status="404") == 3
    others = [(name, dict(labels)) for name, labels in found if ("method", "other") in labels]
    assert value(found, "retort_http_request_seconds_count", route=route, method="GET") == 3
    assert value(found, "retort_http_request_seconds_bucket", route=route, method="GET", le="10.0") == 3
    assert {labels["status"] for name, labels in others if name == "retort_http_requests_total"} == {"405"}
    assert value(found, "retort_http_requests_in_progress") == 1, "the scrape itself"
    sent_bytes = value(found, "retort_http_sent_bytes_total")
    assert sent_bytes is not None
    assert sent_bytes > len(sent.content)
    written = httpx2.get(f"{server.url}/metrics").text
    assert not [word for word in ("job_0", "nowhere", "MKCOL", "project_", "key_") if word in written]


@on_sqlite
def test_bytes_that_come_and_go_are_counted(key: str, start: Start, recipe: dict[str, object]) -> None:
    server = start()
    headers = {"Authorization": f"Bearer {key}"}
    before = samples(httpx2.get(f"{server.url}/metrics"))
    asked = httpx2.post(f"{server.url}/v1/jobs", headers=headers, json=recipe)
    assert asked.status_code == 201
    after = samples(httpx2.get(f"{server.url}/metrics"))

    def came(name: str) -> float:
        return (value(after, name) or 0) - (value(before, name) or 0)

    scrape = len(httpx2.get(f"{server.url}/metrics").content)
    assert came("retort_http_received_bytes_total") == len(asked.request.content)
    assert 0 < came("retort_http_sent_bytes_total") - len(asked.content) < scrape


def test_the_page_names_all_that_is_told_with_its_labels(client: TestClient) -> None:
    client.get("/v1/nowhere")
    rows = re.findall(r"^\| `(retort_\w+)` \| \w+ \| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    page = {name: set(re.findall(r"\w+", labels)) for name, labels in rows}
    told: dict[str, set[str]] = {}
    for name, labels in samples(client.get("/metrics")):
        if name.startswith("retort_"):
            family = re.sub("_seconds_(bucket|sum|count)$", "_seconds", name)
            told.setdefault(family, set()).update(label for label, _ in labels if label != "le")
    assert told == {name: labels for name, labels in page.items() if not name.startswith("retort_worker_")}


def test_the_registry_tells_of_the_process_too() -> None:
    names = {family.name for family in metrics.make_registry().collect()}
    assert {"process_resident_memory_bytes", "python_info"} <= names
