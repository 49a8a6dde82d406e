"""Pause, resume, stop and cancel from every state, over HTTP."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from service.claims.repository import LostLease, claim_best, write
from service.db import database_now, transaction
from service.jobs import rules
from service.jobs.models import TERMINAL, JobRow, State, Wanted
from service.workers.repository import Machine
from tests.service.conftest import on_sqlite

WISHES = {"pause": Wanted.pause, "resume": Wanted.run, "stop": Wanted.stop, "cancel": Wanted.cancel}


@pytest.fixture
def job_id(client: TestClient, recipe: dict[str, Any]) -> str:
    return str(client.post("/v1/jobs", json=recipe).json()["id"])


def put(job_id: str, **values: Any) -> None:
    with transaction() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(**values))


def ask(client: TestClient, job_id: str, verb: str) -> tuple[int, str, str]:
    answer = client.post(f"/v1/jobs/{job_id}/{verb}")
    said = answer.json()
    return answer.status_code, said.get("state", said.get("detail")), said.get("wanted", "")


def kinds(client: TestClient, job_id: str) -> list[str]:
    return [event["kind"] for event in client.get(f"/v1/jobs/{job_id}/events").json()["items"]]


def in_state(job_id: str, name: str) -> None:
    """Put a job into a state; `held` and `lost` are running with and without a live lease."""
    lease = {"lease_owner": "worker_1", "started_at": database_now(), "attempt": 1, "fence": 1}
    if name in ("held", "lost"):
        put(job_id, state=State.running, lease_ends=database_now() + (60 if name == "held" else -1), **lease)
    elif name == "fresh":
        put(job_id, state=State.queued)
    else:
        put(job_id, state=State(name), started_at=database_now())


ANSWERS = {
    # from: {pause, resume, stop, cancel}; (state, wanted) that follow, or None where it is refused
    "fresh": [("paused", "pause"), ("queued", "run"), ("cancelled", "stop"), ("cancelled", "cancel")],
    "queued": [("paused", "pause"), ("queued", "run"), ("queued", "stop"), ("cancelled", "cancel")],
    "held": [("running", "pause"), ("running", "run"), ("running", "stop"), ("running", "cancel")],
    "lost": [("paused", "pause"), ("running", "run"), ("running", "stop"), ("cancelled", "cancel")],
    "paused": [("paused", "pause"), ("queued", "run"), ("queued", "stop"), ("cancelled", "cancel")],
    "succeeded": [None, None, None, None],
    "failed": [None, None, None, None],
    "cancelled": [None, None, None, ("cancelled", "run")],
}


@pytest.mark.parametrize(("origin", "verb"), list(itertools.product(ANSWERS, WISHES)))
def test_each_wish_from_each_state_twice(client: TestClient, job_id: str, origin: str, verb: str) -> None:
    in_state(job_id, origin)
    if origin == "paused":
        put(job_id, wanted=Wanted.pause)
    wanted = ANSWERS[origin][list(WISHES).index(verb)]
    first = ask(client, job_id, verb)
    if wanted is None:
        words = {"pause": "paused", "resume": "resumed", "stop": "stopped", "cancel": "cancelled"}
        assert first == (409, f"job {job_id} is {origin}; it cannot be {words[verb]} any more", "")
    else:
        assert first == (200, *wanted)
    before = kinds(client, job_id)
    assert ask(client, job_id, verb) == first
    assert kinds(client, job_id) == before, "asking again changes nothing"


@on_sqlite
@pytest.mark.parametrize(("old", "new"), list(itertools.product(Wanted, Wanted)))
def test_a_wish_may_grow_and_a_pause_be_taken_back(client: TestClient, job_id: str, old: Wanted, new: Wanted) -> None:
    in_state(job_id, "held")
    put(job_id, wanted=old)
    verb = {wanted: verb for verb, wanted in WISHES.items()}[new]
    status, said, wanted = ask(client, job_id, verb)
    if new in rules.MAY_WANT[old]:
        assert (status, said, wanted) == (200, "running", new.value)
    else:
        assert (status, said) == (
            409,
            f"job {job_id} is to be {rules.VERBS[old]}; it cannot be {rules.VERBS[new]} any more",
        )


@on_sqlite
def test_each_wish_is_an_event_with_who_and_under_which_fence(client: TestClient, job_id: str) -> None:
    for verb in ("pause", "resume", "pause", "cancel"):
        client.post(f"/v1/jobs/{job_id}/{verb}")
    events = client.get(f"/v1/jobs/{job_id}/events").json()["items"]
    assert [event["kind"] for event in events] == ["created", "paused", "resumed", "paused", "cancelled"]
    key = client.get("/v1/keys").json()["items"][0]["id"]
    assert all(event["data"] == {"asker": "owner", "key": key, "fence": 0} for event in events)


@on_sqlite
def test_a_job_stopped_before_its_start_says_that_nothing_was_kept(client: TestClient, job_id: str) -> None:
    client.post(f"/v1/jobs/{job_id}/stop")
    last = client.get(f"/v1/jobs/{job_id}/events").json()["items"][-1]
    assert (last["kind"], last["text"]) == ("cancelled", "it was not started yet, so there is nothing to keep")


def test_a_worker_that_lost_its_lease_is_refused_once_its_job_is_paused(client: TestClient, job_id: str) -> None:
    with transaction() as session:
        claim = claim_best(session, "worker-1", -1, Machine())
    assert claim is not None
    assert ask(client, job_id, "pause") == (200, "paused", "pause")
    with pytest.raises(LostLease), transaction() as session:
        write(session, claim, phase="preparing")


@on_sqlite
@pytest.mark.parametrize("verb", list(WISHES))
def test_anothers_job_does_not_exist(client: TestClient, stranger: TestClient, job_id: str, verb: str) -> None:
    assert ask(stranger, job_id, verb)[0] == 404
    assert ask(client, "job_none", verb)[0] == 404
    assert client.get(f"/v1/jobs/{job_id}").json()["wanted"] == "run"


def test_all_states_have_a_row_here() -> None:
    assert {State(name) for name in ANSWERS if name not in ("fresh", "held", "lost")} | {State.running} == set(State)
    assert set(TERMINAL) <= {State(name) for name, row in ANSWERS.items() if row[0] is None}
