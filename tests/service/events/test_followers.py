"""The watch: what many followers cost, and what each of them is told whatever the others do."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from sqlalchemy import event, text

import service.events.followers
import service.events.service
from service.access.caller import Caller
from service.db import get_engine, make_engine, transaction
from service.events.followers import NEAR_EVENTS
from service.jobs.event_log import Entry
from service.keys.service import authenticate, create_local_key
from tests.conftest import wait_until
from tests.servers import get
from tests.service.conftest import HANG_SECONDS, Server, on_sqlite
from tests.service.events.test_events import STREAM, end, metrics, parse, write
from tests.service.rows import add_job

Start = Callable[..., Server]


@pytest.fixture
def caller(key: str) -> Caller:
    return authenticate(key)


@pytest.fixture
def job_ids(caller: Caller) -> list[str]:
    return [add_job(caller.project_id) for _ in range(3)]


@contextmanager
def statements() -> Iterator[list[str]]:
    """What is asked of the database meanwhile."""
    said: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT"):
            said.append(statement)

    event.listen(get_engine(), "before_cursor_execute", note)
    yield said
    event.remove(get_engine(), "before_cursor_execute", note)


class Follower:
    """One follower, and what it was told."""

    def __init__(self, caller: Caller, job_id: str) -> None:
        self.told = ""
        self.task = asyncio.create_task(self._follow(service.events.service.follow(caller, job_id, 0)))

    @property
    def numbers(self) -> list[int]:
        return [int(said["id"]) for said in parse(self.told)]

    async def _follow(self, stream: AsyncIterator[bytes]) -> None:
        async for piece in stream:
            self.told += piece.decode()


async def until(true: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_one_look_serves_all_followers(caller: Caller, job_ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """However many follow, a look is two statements, and three when there is news of any of their jobs."""
    looks = []
    real = service.events.followers.look
    monkeypatch.setattr(service.events.followers, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(service.events.followers, "look", lambda asked: (looks.append(len(asked)), real(asked))[1])

    async def scenario() -> None:
        followers = [Follower(caller, job_id) for job_id in job_ids for _ in range(20)]
        await until(lambda: looks[-1:] == [60])
        with statements() as said:
            begin = len(looks)
            await until(lambda: len(looks) >= begin + 3)
            assert len(said) <= 2 * (len(looks) - begin + 1)
        for job_id in job_ids:
            await asyncio.to_thread(write, job_id, metrics(1, 2.5), metrics(2, 1.5))
        with statements() as said:
            begin = len(looks)
            await until(lambda: all(follower.numbers == [1, 2] for follower in followers))
            assert len(said) <= 3 * (len(looks) - begin + 1)
        for job_id in job_ids:
            await asyncio.to_thread(end, job_id)
        await asyncio.gather(*(follower.task for follower in followers))
        assert all(follower.numbers == [1, 2, 3] for follower in followers)
        begin = len(looks)
        await asyncio.sleep(0.3)
        assert len(looks) <= begin + 1  # nobody follows any more

    asyncio.run(scenario())


def test_who_is_far_behind_reads_by_itself(caller: Caller, job_ids: list[str]) -> None:
    async def scenario() -> None:
        early = [Follower(caller, job_ids[0]) for _ in range(3)]
        await asyncio.to_thread(write, job_ids[0], metrics(1, 1.0))
        await until(lambda: all(follower.numbers == [1] for follower in early))
        many = service.events.service.BATCH + 5 * NEAR_EVENTS
        await asyncio.to_thread(write, job_ids[0], *(metrics(epoch, 1.0) for epoch in range(2, many + 1)))
        late = [Follower(caller, job_ids[0]) for _ in range(3)]
        await until(lambda: all(follower.numbers == list(range(1, many + 1)) for follower in early + late))
        await asyncio.to_thread(write, job_ids[0], metrics(many + 1, 1.0))
        await asyncio.to_thread(end, job_ids[0])
        await asyncio.gather(*(follower.task for follower in early + late))
        assert all(follower.numbers == list(range(1, many + 3)) for follower in early + late)

    asyncio.run(scenario())


def test_a_revoked_key_ends_its_own_streams_alone(caller: Caller, job_ids: list[str]) -> None:
    with transaction() as session:
        other = create_local_key(session, "other")
    theirs = authenticate(other)

    async def scenario() -> None:
        mine, revoked = Follower(caller, job_ids[0]), Follower(theirs, job_ids[0])
        await asyncio.to_thread(write, job_ids[0], metrics(1, 1.0))
        await until(lambda: mine.numbers == revoked.numbers == [1])
        await asyncio.to_thread(revoke, theirs.key_id)
        await asyncio.wait_for(revoked.task, 5)
        await asyncio.to_thread(end, job_ids[0])
        await mine.task
        assert (mine.numbers, revoked.numbers) == ([1, 2], [1])

    asyncio.run(scenario())


def revoke(key_id: str) -> None:
    with transaction() as session:
        session.execute(text("UPDATE keys SET revoked_at = 1 WHERE id = :id"), {"id": key_id})


@on_sqlite
def test_a_fault_in_a_look_is_told_to_who_waits(
    caller: Caller, job_ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(asked: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service.events.followers, "look", fail)

    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError):
            await Follower(caller, job_ids[0]).task

    asyncio.run(scenario())


# A real process


@pytest.mark.server
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_followers_outlive_a_database_that_was_away(start: Start, key: str, caller: Caller, job_ids: list[str]) -> None:
    server, job_id = start(), job_ids[0]
    said: list[str] = []

    def follow() -> None:
        headers = {**STREAM, "Authorization": f"Bearer {key}"}
        address = f"{server.url}/v1/jobs/{job_id}/events"
        with httpx2.stream("GET", address, headers=headers, timeout=HANG_SECONDS) as answer:
            said.extend(line for line in answer.iter_lines() if line.startswith("event: "))

    write(job_id, metrics(1, 2.5))
    follower = threading.Thread(target=follow)
    follower.start()
    wait_until(lambda: said, "the follower gets the first event", HANG_SECONDS)
    with shut():
        wait_until(lambda: "followers wait" in server.log.read_text(), "the front end notices", HANG_SECONDS)
        time.sleep(2)
        assert follower.is_alive()
    write(job_id, metrics(2, 1.5))
    end(job_id)
    follower.join(HANG_SECONDS)
    assert said == ["event: metrics", "event: metrics", "event: succeeded"]
    assert server.log.read_text().count("followers wait for the database") == 1


@contextmanager
def shut() -> Iterator[None]:
    """The database takes no connection and ends those that it has."""
    url, name = get_engine().url, get_engine().url.database
    get_engine().dispose()
    other = make_engine(url.set(database="postgres").render_as_string(hide_password=False))
    with other.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        connection.execute(
            text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
        )
        yield
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    other.dispose()


def test_who_reads_slowly_delays_nobody_and_takes_no_memory(
    start: Start, key: str, caller: Caller, job_ids: list[str]
) -> None:
    """Followers who never read: a large event log is not kept for them, and others hear of everything."""
    server, job_id = start(), job_ids[0]
    large = [Entry("warning", {"phase": "distilling", "text": "x" * 20_000}, f"warning/{i}") for i in range(400)]
    write(job_id, *large[:200])
    address = urlsplit(server.url)
    headers = {**STREAM, "Authorization": f"Bearer {key}", "Host": address.netloc}
    lines = [f"GET /v1/jobs/{job_id}/events HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    stalled = []
    for _ in range(10):
        stalled.append(socket.create_connection((address.hostname, address.port)))
        stalled[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled[-1].sendall("\r\n".join(lines).encode())
    time.sleep(2)
    before = server.memory_mib()

    def follow() -> int:
        with httpx2.stream("GET", f"{server.url}/v1/jobs/{job_id}/events", headers=headers, timeout=30) as answer:
            assert answer.status_code == 200
            return sum(line.startswith("event: ") for line in answer.iter_lines())

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(follow)
        for i in range(200, 400, 10):
            write(job_id, *large[i : i + 10])
            time.sleep(0.05)
        end(job_id)
        assert reader.result(30) == 401
    # What was written since would be ten times 4 MB, if it were kept for each of them.
    assert server.memory_mib() - before < 25
    for connection in stalled:
        connection.close()
    wait_until(lambda: get(f"{server.url}/healthz").is_success, "the front end answers")
