"""The event log: as a list, as server-sent events that can be taken up again, as curves."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

import service.events.followers
import service.events.service
from service.db import database_now, get_engine, transaction
from service.jobs.event_log import Entry, append, change
from service.jobs.models import JobRow, State
from tests.conftest import wait_until
from tests.service.conftest import Server, bearing, on_sqlite

Start = Callable[..., Server]
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def job_id(client: TestClient, recipe: dict[str, Any]) -> str:
    return str(client.post("/v1/jobs", json=recipe).json()["id"])


def write(job_id: str, *entries: Entry) -> None:
    with transaction() as session:
        append(session, job_id, 1, entries)


def metrics(epoch: int, loss: float, student: str = "student") -> Entry:
    body = {"phase": "distilling", "network": student, "epoch": epoch, "step": 20 * epoch, "values": {"loss": loss}}
    return Entry("metrics", body, f"distilling/{student}/metrics/{epoch}")


def end(job_id: str) -> None:
    with transaction() as session:
        session.execute(
            update(JobRow).where(JobRow.id == job_id).values(state=State.succeeded, ended_at=database_now())
        )
        append(session, job_id, 1, [change("succeeded")])


def parse(stream: str) -> list[dict[str, str]]:
    """The events of a stream, field by field; comments are left out."""
    blocks = [block for block in stream.split("\n\n") if block and not block.startswith(":")]
    return [dict(re.findall(r"^(\w+): (.*)$", block, re.MULTILINE)) for block in blocks]


def test_events_are_numbered_without_gap(client: TestClient, job_id: str) -> None:
    write(job_id, metrics(1, 2.5), metrics(2, 1.5))
    write(job_id, metrics(2, 1.5))  # a resumed run says it again
    write(job_id, Entry("warning", {"phase": "preparing", "text": "odd"}, "w"))
    events = client.get(f"/v1/jobs/{job_id}/events").json()["items"]
    assert [event["number"] for event in events] == [1, 2, 3, 4]
    assert [event["kind"] for event in events] == ["created", "metrics", "metrics", "warning"]
    assert events[1] == {
        "number": 2, "at": events[1]["at"], "kind": "metrics", "attempt": 1, "phase": "distilling",
        "network": "student", "epoch": 1, "step": 20, "values": {"loss": 2.5}, "text": None, "data": None,
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", events[1]["at"])


def test_pages_and_after(client: TestClient, job_id: str) -> None:
    write(job_id, *(metrics(epoch, 1.0) for epoch in range(1, 10)))
    address = f"/v1/jobs/{job_id}/events"
    page = client.get(f"{address}?limit=4").json()
    numbers = [event["number"] for event in page["items"]]
    while page["next_cursor"]:
        page = client.get(address, params={"limit": 4, "cursor": page["next_cursor"]}).json()
        numbers += [event["number"] for event in page["items"]]
    assert numbers == list(range(1, 11))
    assert [event["number"] for event in client.get(f"{address}?after=8").json()["items"]] == [9, 10]
    answer = client.get(f"{address}?cursor=WzEsMl0")
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "cursor")


def test_curves(client: TestClient, job_id: str) -> None:
    write(job_id, metrics(1, 2.5), metrics(1, 3.5, "baseline"), metrics(2, 1.5))
    write(job_id, Entry("evaluation", {"phase": "distilling", "network": "student", "epoch": 2, "step": 40,
                                       "values": {"validation.accuracy": 0.75}}, "e"))  # fmt: skip
    assert client.get(f"/v1/jobs/{job_id}/metrics").json() == {
        "networks": {
            "student": {
                "loss": [
                    {"phase": "distilling", "epoch": 1, "step": 20, "value": 2.5},
                    {"phase": "distilling", "epoch": 2, "step": 40, "value": 1.5},
                ],
                "validation.accuracy": [{"phase": "distilling", "epoch": 2, "step": 40, "value": 0.75}],
            },
            "baseline": {"loss": [{"phase": "distilling", "epoch": 1, "step": 20, "value": 3.5}]},
        }
    }


# Server-sent events


def test_a_finished_event_log_is_replayed_and_the_stream_ends(client: TestClient, job_id: str) -> None:
    write(job_id, *(metrics(epoch, 1.0) for epoch in range(1, 451)))
    end(job_id)
    answer = client.get(f"/v1/jobs/{job_id}/events", headers=STREAM)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-cache"
    events = parse(answer.text)
    assert [int(event["id"]) for event in events] == list(range(1, 453))
    assert [event["event"] for event in events[-2:]] == ["metrics", "succeeded"]
    listed = client.get(f"/v1/jobs/{job_id}/events?limit=1").json()["items"][0]
    assert httpx2.Response(200, content=events[0]["data"]).json() == listed


@pytest.mark.parametrize(
    ("headers", "query"), [({"Last-Event-ID": "2"}, ""), ({}, "?after=2"), ({"Last-Event-ID": "2"}, "?after=0")]
)
def test_a_stream_goes_on_where_it_broke(client: TestClient, job_id: str, headers: dict[str, str], query: str) -> None:
    write(job_id, metrics(1, 2.5), metrics(2, 1.5))
    end(job_id)
    events = parse(client.get(f"/v1/jobs/{job_id}/events{query}", headers={**STREAM, **headers}).text)
    assert [event["id"] for event in events] == ["3", "4"]
    past = client.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": "99"})
    assert (past.status_code, past.text) == (200, "")


def test_a_wrong_last_event_id_is_told(client: TestClient, job_id: str) -> None:
    answer = client.get(f"/v1/jobs/{job_id}/events", headers={**STREAM, "Last-Event-ID": "two"})
    assert (answer.status_code, answer.json()["detail"]) == (422, "Last-Event-ID is 'two'; wanted a whole number")


@on_sqlite
def test_silence_is_filled_with_comments(client: TestClient, job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.events.service, "KEEPALIVE_SECONDS", 0.05)
    monkeypatch.setattr(service.events.followers, "LOOK_SECONDS", 0.02)
    later = threading.Timer(0.5, end, [job_id])
    later.start()
    stream = client.get(f"/v1/jobs/{job_id}/events", headers=STREAM).text
    later.join()
    assert stream.count(": ping\n\n") >= 2
    assert [event["event"] for event in parse(stream)] == ["created", "succeeded"]


@pytest.mark.parametrize("ending", ["deleted", "revoked"])
def test_a_stream_ends_when_job_or_key_go(
    client: TestClient, recipe: dict[str, Any], job_id: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.events.followers, "LOOK_SECONDS", 0.02)
    made = client.post("/v1/keys", json={"name": "follower"}).json()
    follower = bearing(made["key"])
    assert follower.get(f"/v1/jobs/{job_id}/events").is_success  # FastAPI builds the endpoint at its first request
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(follower.get, f"/v1/jobs/{job_id}/events", headers=STREAM)
        time.sleep(0.3)
        assert not stream.done()
        if ending == "revoked":
            client.delete(f"/v1/keys/{made['id']}")
        else:
            with transaction() as session:
                session.execute(JobRow.__table__.delete())
        assert [event["event"] for event in parse(stream.result(10).text)] == ["created"]


# A real process


def test_followers_get_what_happens_and_hold_no_connection(start: Start, key: str, job_id: str) -> None:
    """More followers than a pool has connections, each told of every event soon after it was written."""
    server = start()
    said: list[list[tuple[float, str]]] = [[] for _ in range(25)]

    def follow(number: int) -> None:
        headers = {**STREAM, "Authorization": f"Bearer {key}"}
        with httpx2.stream("GET", f"{server.url}/v1/jobs/{job_id}/events", headers=headers, timeout=30) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    said[number].append((time.monotonic(), line.removeprefix("event: ")))

    with ThreadPoolExecutor(len(said)) as pool:
        followers = [pool.submit(follow, number) for number in range(len(said))]
        try:
            wait_until(lambda: all(said), "everybody follows")
            stuck = stuck_connections()
            wrote = time.monotonic()
            write(job_id, metrics(1, 2.5))
            wait_until(lambda: all(len(each) == 2 for each in said), "everybody hears the news")
        finally:
            end(job_id)
        for follower in followers:
            follower.result(20)
    assert stuck == []
    assert [[kind for _, kind in each] for each in said] == [["created", "metrics", "succeeded"]] * len(said)
    assert max(each[1][0] for each in said) - wrote < 3


def stuck_connections() -> list[tuple[str, float]]:
    """Connections of others to this PostgreSQL that hold a transaction and do nothing with it for a while."""
    if get_engine().dialect.name != "postgresql":
        return []
    query = (
        "SELECT query, extract(epoch FROM clock_timestamp() - state_change)::float FROM pg_stat_activity "
        "WHERE datname = current_database() AND state = 'idle in transaction' "
        "AND clock_timestamp() - state_change > interval '0.4 seconds'"
    )
    found = []
    for _ in range(10):
        with get_engine().connect() as connection:
            found += [(said, seconds) for said, seconds in connection.exec_driver_sql(query)]
        time.sleep(0.1)
    return found


@on_sqlite
def test_the_process_stops_while_somebody_follows(start: Start, key: str, job_id: str) -> None:
    server = start()
    headers = {**STREAM, "Authorization": f"Bearer {key}"}
    with httpx2.stream("GET", f"{server.url}/v1/jobs/{job_id}/events", headers=headers, timeout=30) as answer:
        lines = answer.iter_lines()
        assert next(lines) == "event: created"
        server.process.terminate()
        server.process.wait(10)


@on_sqlite
def test_a_follower_that_leaves_is_forgotten(start: Start, key: str, job_id: str) -> None:
    """After many followers came and went the process looks into the database for none of them."""
    server = start()
    headers = {**STREAM, "Authorization": f"Bearer {key}"}
    for _ in range(20):
        with httpx2.stream("GET", f"{server.url}/v1/jobs/{job_id}/events", headers=headers, timeout=30) as answer:
            next(answer.iter_lines())
    time.sleep(1)
    before = cpu_ticks(server)
    time.sleep(2)
    assert cpu_ticks(server) - before <= 10


def cpu_ticks(server: Server) -> int:
    """Hundredths of a second that the process has computed."""
    from pathlib import Path

    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
