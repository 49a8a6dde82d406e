"""A lease while the database is away: the engine goes on while the lease is ours, and not a moment longer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import create_engine, select, text
from sqlalchemy.engine import make_url

from service.claims import service
from service.claims.repository import Claim, LostLease
from service.claims.service import Directive
from service.db import transaction
from service.jobs.models import JobRow, State, Wanted
from tests.conftest import wait_until
from tests.service.rows import add_project
from tests.worker.plays import add_play, alive, kinds, row, running_agent, wait_for_kind, wait_for_state
from worker.lease import Lease, boottime

Environment = Callable[..., None]
METRICS = ("event", {"network": "student", "step": 1, "values": {"loss": 0.5}})


@pytest.fixture(autouse=True)
def quick(database: str, environment: Environment) -> None:
    environment(database_url=database, look_seconds=0.2, lease_seconds=2, grace_seconds=1)


def take(seconds: float = 2) -> Claim:
    with transaction() as session:
        claim = service.claim(session, "worker_a", seconds)
    assert claim is not None
    return claim


@contextmanager
def locked(job_id: str) -> Iterator[float | None]:
    """Nobody else can write to the job: whoever tries waits. Gives the end of its lease."""
    with transaction() as session:
        yield session.scalar(select(JobRow.lease_ends).where(JobRow.id == job_id).with_for_update())


@contextmanager
def database_away(url: str) -> Iterator[None]:
    """PostgreSQL drops every connection to the database and takes no new one."""
    name = make_url(url).database
    engine = create_engine(make_url(url).set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
        connection.execute(text(end), {"name": name})
        yield
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    engine.dispose()


def test_an_engine_whose_lease_cannot_be_renewed_is_killed_at_its_end(
    database: str, environment: Environment, tmp_path: Path
) -> None:
    environment(database_url=database, look_seconds=0.2, lease_seconds=5)
    job_id = add_play(add_project(), ("note", str(tmp_path / "note")), METRICS, ("deaf", 60))
    with running_agent():
        wait_for_kind(job_id, "metrics")
        pid = json.loads((tmp_path / "note").read_text())["pid"]
        with locked(job_id):
            started = time.monotonic()
            wait_until(lambda: not alive(pid), "the engine is killed")
            # Renewed every 0.2 s, or somewhat later on a busy machine, the lease is worth 5 s; the database waits 30.
            assert time.monotonic() - started > 2.5
        wait_for_kind(job_id, "claimed", 2)
    assert row(job_id).fence == 2


def test_an_engine_goes_on_while_the_database_is_away_for_less_than_a_lease(
    postgresql_database: str, environment: Environment, tmp_path: Path
) -> None:
    environment(database_url=postgresql_database, look_seconds=0.2, lease_seconds=8)
    job_id = add_play(
        add_project(), METRICS, ("deaf", 1), ("event", {"step": 2}), ("deaf", 1), ("ship", {"a.txt": "a"})
    )
    with running_agent():
        wait_for_kind(job_id, "metrics")
        with database_away(postgresql_database):
            time.sleep(3)
        wait_for_state(job_id, State.succeeded)
    assert kinds(job_id) == ["claimed", "metrics", "metrics", "succeeded"]
    assert (row(job_id).attempt, row(job_id).fence) == (1, 1)


def test_a_lease_is_renewed_and_reads_the_order() -> None:
    job_id = add_play(add_project())
    lost: list[bool] = []
    seen: list[bool] = []
    lease = Lease(
        take(60),
        seconds=60,
        every_seconds=0.1,
        claimed_at=boottime(),
        on_loss=lambda: lost.append(True),
        also=lambda session: seen.append(True),
    )
    ends = row(job_id).lease_ends
    assert ends is not None
    with lease:
        with transaction() as session:
            session.get_one(JobRow, job_id).wanted = Wanted.cancel
        wait_until(lambda: lease.directive is Directive.cancel, "the order is read")
        wait_until(lambda: len(seen) > 5, "it goes on")
        wait_until(lambda: (row(job_id).lease_ends or 0) > ends + 0.4, "it is renewed each time")
        lease.check()
    assert not lost


def test_a_renewal_that_waited_past_the_leases_end_is_none() -> None:
    """Else the job would wait one more lease, for a worker that has given it up."""
    job_id = add_play(add_project())
    lost = threading.Event()
    lease = Lease(
        take(), seconds=2, every_seconds=0.1, claimed_at=boottime(), on_loss=lost.set, also=lambda session: None
    )
    with lease:
        with locked(job_id) as ends:
            assert lost.wait(5)
        time.sleep(0.5)
        assert row(job_id).lease_ends == ends


def test_no_renewal_comes_after_the_last_write() -> None:
    add_play(add_project())
    claim, lost = take(60), threading.Event()
    lease = Lease(
        claim, seconds=60, every_seconds=0.01, claimed_at=boottime(), on_loss=lost.set, also=lambda session: None
    )

    def write() -> None:
        with transaction() as session:
            service.cancel(session, claim)
        time.sleep(0.2)

    with lease:
        time.sleep(0.1)
        lease.conclude(write)
        time.sleep(0.2)
        lease.check()
    assert not lost.is_set()


def test_a_lease_that_began_too_long_ago_is_lost_at_once() -> None:
    """The machine slept: its clock says so, whatever the database would still grant."""
    add_play(add_project())
    claim, lost = take(), threading.Event()
    lease = Lease(
        claim, seconds=2, every_seconds=60, claimed_at=boottime() - 3, on_loss=lost.set, also=lambda session: None
    )
    with lease:
        assert lost.wait(2)
        with pytest.raises(LostLease, match=f"the lease of job {claim.job_id} under fence 1 has ended"):
            lease.check()
