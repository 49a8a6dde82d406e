"""One thing is gone for a while, with all the rest at work: what goes on meanwhile, and what comes after."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Protocol

import httpx2
import pytest
from sqlalchemy import select

from retort.client import JobInfo, Retort
from service.db import reading
from service.jobs.models import EventRow
from service.jobs.models import JobRow as Row
from tests.faults import stand_in
from tests.faults.installation import HOUR, Installation, fresh_folder, remove
from tests.faults.scenario import recipe
from tests.faults.watch import LINE, Line, check_event_log
from tests.servers import get, wait_until

pytestmark = pytest.mark.server


class Service(Protocol):
    """Workers with settings of their own in the house, and a client of a project of its own."""

    def __call__(
        self, workers: int = 1, **settings: object
    ) -> contextlib.AbstractContextManager[tuple[Installation, Retort]]: ...


@pytest.fixture(scope="module")
def house() -> Iterator[Installation]:
    """Servers and API, to which each test brings its workers."""
    folder = fresh_folder("gone")
    installation = Installation(folder, pair="full")
    with installation.running(workers=0):
        yield installation
    remove(folder)


@pytest.fixture
def service(house: Installation, request: pytest.FixtureRequest) -> Service:
    @contextlib.contextmanager
    def with_workers(workers: int = 1, **settings: object) -> Iterator[tuple[Installation, Retort]]:
        with house.workers_with(workers, **settings):
            yield house, house.client(sha256(request.node.name.encode()).hexdigest()[:16])

    return with_workers


def steps_taken(installation: Installation, job_id: str) -> list[tuple[int, int]]:
    """(fence, step) of each step that an engine has taken for a job."""
    notes = installation.work / job_id
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(int(fence), int(step)) for fence, step in (line.split() for line in lines)]


def wait_for_step(installation: Installation, job_id: str, step: int, fence: int = 1) -> None:
    def reached() -> bool:
        return any(taken[0] == fence and taken[1] >= step for taken in steps_taken(installation, job_id))

    wait_until(reached, f"step {step} is taken under fence {fence}")


def wait_for_end(client: Retort, job: JobInfo, seconds: float = 120) -> None:
    wait_until(lambda: client.jobs.get(job.id).terminal, "the job ends", seconds)
    assert client.jobs.get(job.id).state == "succeeded", client.jobs.get(job.id).error


def event_log(installation: Installation, job_id: str) -> list[Line]:
    found = select(*LINE).where(EventRow.job_id == job_id).order_by(EventRow.number)
    with installation.here(), reading() as session:
        return [Line(*row) for row in session.execute(found)]


def check_whole(installation: Installation, job: JobInfo, seed: int, steps: int) -> None:
    """Each step is told once, with its own value, and the event log ends as the job did."""
    lines = event_log(installation, job.id)
    said = [(line.body["step"], line.body["values"]) for line in lines if line.kind == "metrics"]
    assert said == [(step, stand_in.metrics(seed, step)["values"]) for step in range(1, steps + 1)]
    with installation.here(), reading() as session:
        row = session.get_one(Row, job.id)
    assert check_event_log(row.state, row.fence, lines) == []


@pytest.mark.parametrize("seconds", [4, pytest.param(600, marks=[pytest.mark.long, pytest.mark.longest])])
def test_without_redis_jobs_are_accepted_and_run(service: Service, seconds: float) -> None:
    with service(workers=2, look_seconds=1) as (installation, client):
        assert installation.redis is not None
        wait_for_end(client, client.jobs.create(recipe("stand_in", 1, 2)))
        installation.redis.stop()
        gone_until = time.monotonic() + seconds
        wait_until(lambda: get(f"{installation.url}/readyz").json()["status"] == "degraded", "it says so")
        sent = []
        while time.monotonic() < gone_until:
            begun = time.monotonic()
            sent.append(client.jobs.create(recipe("stand_in", len(sent), 4)))
            assert time.monotonic() - begun < 20, "a missing broker held a request up"
            time.sleep(seconds / 8)
        wait_for_end(client, sent[0])  # found by looking
        installation.redis.start()
        wait_until(lambda: get(f"{installation.url}/readyz").json()["status"] == "ok", "it says so", 60)
        for job in [*sent, client.jobs.create(recipe("stand_in", 7, 4))]:
            wait_for_end(client, job)
        assert not installation.said("the worker failed")


def test_wake_ups_are_heard_again_once_redis_is_back(service: Service) -> None:
    with service(look_seconds=300, lease_seconds=30) as (installation, client):
        assert installation.redis is not None
        wait_until(lambda: installation.said(" ready."), "the worker is ready")
        installation.redis.stop()
        wait_until(lambda: installation.said("Cannot connect"), "the worker misses it")
        installation.redis.start()
        with installation.redis.client() as redis:
            wait_until(lambda: redis.client_list(_type="normal")[1:], "the worker is connected again", 60)
            wait_until(lambda: "brpop" in str(redis.client_list()).lower(), "it listens", 60)
        wait_for_end(client, client.jobs.create(recipe("stand_in", 1, 2)))


def test_a_short_absence_of_the_database_costs_no_attempt(service: Service) -> None:
    with service(lease_seconds=20) as (installation, client):
        assert installation.postgresql is not None
        job = client.jobs.create(recipe("stand_in", 1, 120))
        wait_for_step(installation, job.id, 10)
        installation.postgresql.stop(signal.SIGQUIT)
        before = len(steps_taken(installation, job.id))
        answer = httpx2.get(f"{installation.url}/v1/jobs/{job.id}", headers=client_headers(client), timeout=30)
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert int(answer.headers["Retry-After"]) > 0
        assert httpx2.get(f"{installation.url}/readyz", timeout=30).status_code == 503
        wait_until(lambda: len(steps_taken(installation, job.id)) >= before + 10, "the engine goes on")
        installation.postgresql.start()
        wait_for_end(client, job)
        assert {fence for fence, _ in steps_taken(installation, job.id)} == {1}
        check_whole(installation, job, 1, 120)


def test_an_absence_longer_than_the_lease_ends_the_engine_and_loses_nothing(service: Service) -> None:
    with service(lease_seconds=2) as (installation, client):
        assert installation.postgresql is not None
        job = client.jobs.create(recipe("stand_in", 2, 150))
        wait_for_step(installation, job.id, 20)
        installation.postgresql.stop(signal.SIGINT)
        wait_until(lambda: installation.said("could not be renewed in 2 s"), "the worker gives it up")
        time.sleep(0.5)
        done = len(steps_taken(installation, job.id))
        time.sleep(1)
        assert len(steps_taken(installation, job.id)) == done, "the engine outlived its lease"
        installation.postgresql.start()
        wait_for_end(client, job)
        check_whole(installation, job, 2, 150)
        taken = steps_taken(installation, job.id)
        attempts = len({fence for fence, _ in taken})
        assert attempts > 1
        again = len(taken) - 150
        assert again < 2 * stand_in.STEPS_A_CHECKPOINT * (attempts - 1), "work was done again that a checkpoint held"


def test_a_worker_that_slept_past_its_lease_writes_nothing_more(service: Service) -> None:
    with service(workers=2, lease_seconds=4) as (installation, client):
        wait_until(lambda: installation.said(" ready.") == 2, "both workers are ready")
        job = client.jobs.create(recipe("stand_in", 3, 150))
        wait_for_step(installation, job.id, 10)
        (sleeper,) = [worker for worker in installation.workers if "begins under fence 1" in worker.log.read_text()]
        sleeper.suspend()
        wait_for_step(installation, job.id, 1, fence=2)
        time.sleep(0.5)
        sleeper.wake()
        wait_until(lambda: "the engine is killed and nothing more is written" in sleeper.log.read_text(), "it says so")
        wait_until(lambda: "abandoned: " in sleeper.log.read_text(), "it says so")
        wait_for_end(client, job)
        check_whole(installation, job, 3, 150)
        lines = event_log(installation, job.id)
        taken_over = next(line.number for line in lines if line.kind == "requeued")
        assert 1 not in {line.attempt for line in lines if line.number > taken_over}


def test_a_job_that_was_taken_from_a_living_worker_is_written_by_the_new_one_alone(service: Service) -> None:
    """The database's clock jumps, so that the lease has ended there while its holder counts on it."""
    with service(workers=2, lease_seconds=15, look_seconds=5) as (installation, client):
        wait_until(lambda: installation.said(" ready.") == 2, "both workers are ready")
        job = client.jobs.create(recipe("stand_in", 5, 80))
        wait_for_step(installation, job.id, 10)
        installation.move_clock(HOUR)
        installation.deliver_again(3)
        wait_for_step(installation, job.id, 1, fence=2)
        wait_for_end(client, job)
        check_whole(installation, job, 5, 80)
        assert installation.said("abandoned: ") == 1
        lines = event_log(installation, job.id)
        taken_over = next(line.number for line in lines if line.kind == "requeued")
        assert 1 not in {line.attempt for line in lines if line.number > taken_over}


@pytest.mark.parametrize("end", [pytest.param("die", marks=pytest.mark.long), "lose"])
def test_a_job_whose_wake_up_never_came_is_run(service: Service, end: str) -> None:
    """The API is killed between its commit and the wake-up, or the wake-up is lost."""
    with service() as (installation, client):
        (installation.control / end).touch()
        with contextlib.suppress(httpx2.TransportError):
            post_job(installation, client, "once")
        if end == "die":
            assert installation.api is not None
            installation.api.wait(60)
            installation.start_api()
            installation.wait_for_api()
        again = post_job(installation, client, "once")
        assert again.status_code == 201
        (job,) = client.jobs.list()
        assert job.id == again.json()["id"]
        wait_for_end(client, job)


def post_job(installation: Installation, client: Retort, key: str) -> httpx2.Response:
    headers = {**client_headers(client), "Idempotency-Key": key}
    return httpx2.post(f"{installation.url}/v1/jobs", json=recipe("stand_in", 4, 4), headers=headers)


def client_headers(client: Retort) -> dict[str, str]:
    return {"Authorization": client.jobs._transport._http.headers["Authorization"]}
