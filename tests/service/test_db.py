"""Transactions, the clock, and what each kind of database needs set up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text, update

from service.db import database_now, get_engine, make_engine, reading, release_pages, transaction
from service.jobs.models import Job, State, Wanted
from service.projects.models import Project
from tests.service.rows import add_job, add_project


def now() -> float:
    with reading() as session:
        return session.scalar(select(database_now())) or 0.0


@pytest.mark.usefixtures("database")
def test_the_clock_is_epoch_seconds_with_fractions_and_can_be_set_off(monkeypatch: pytest.MonkeyPatch) -> None:
    before, read, after = time.time(), now(), time.time()
    assert before - 0.01 <= read <= after + 0.01
    assert len({now() % 1 for _ in range(5)}) > 1
    monkeypatch.setattr("service.db.clock_offset_seconds", 1000.0)
    assert now() == pytest.approx(time.time() + 1000, abs=1)


@pytest.mark.usefixtures("database")
def test_the_clock_moves_on_within_a_transaction() -> None:
    with transaction() as session:
        first = session.scalar(select(database_now())) or 0
        time.sleep(0.05)
        assert (session.scalar(select(database_now())) or 0) > first


@pytest.mark.usefixtures("database")
def test_a_transaction_is_kept_whole_or_not_at_all() -> None:
    project_id = add_project()

    def broken() -> None:
        with transaction() as session:
            session.execute(update(Project).values(name="lost"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    with reading() as session:
        assert session.get_one(Project, project_id).name == "default"


@pytest.mark.usefixtures("database")
def test_a_job_reads_as_it_was_written() -> None:
    job_id = add_job(add_project(), latest={"student": {"accuracy": 0.5}}, wanted=Wanted.cancel)
    with reading() as session:
        job = session.get_one(Job, job_id)
        words = session.execute(text("SELECT state, wanted FROM jobs")).one()
        nothing = session.scalar(text("SELECT count(*) FROM jobs WHERE progress IS NULL AND error IS NULL"))
    assert (job.state, job.wanted, job.latest) == (State.queued, Wanted.cancel, {"student": {"accuracy": 0.5}})
    assert tuple(words) == ("queued", "cancel")
    assert nothing == 1


@pytest.mark.usefixtures("database")
def test_writers_at_once_take_turns() -> None:
    add_project()

    def add_one() -> None:
        for _ in range(10):
            with transaction() as session:
                served_at = session.scalar(select(Project.served_at).with_for_update())
                session.execute(update(Project).values(served_at=(served_at or 0) + 1))

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(add_one) for _ in range(6)]:
            done.result()
    with reading() as session:
        assert session.scalar(select(Project.served_at)) == 60


@pytest.mark.usefixtures("database")
def test_a_reader_never_waits_for_a_writer() -> None:
    project_id = add_project()
    read: list[str] = []

    def look() -> None:
        with reading() as session:
            read.append(session.get_one(Project, project_id).name)

    with transaction() as session:
        session.execute(update(Project).values(name="new"))
        reader = threading.Thread(target=look)
        reader.start()
        reader.join(5)
        assert read == ["default"]


def test_sqlite_is_set_up_before_the_first_table(sqlite_database: str) -> None:
    engine = make_engine(sqlite_database)
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "auto_vacuum")
        }
        keys = connection.exec_driver_sql("PRAGMA foreign_keys").scalar()
    engine.dispose()
    assert pragmas == {"journal_mode": "wal", "auto_vacuum": 2}
    assert keys == 1


def test_freed_pages_are_given_back(sqlite_database: str, environment: Callable[..., None]) -> None:
    environment(database_url=sqlite_database)
    file = Path(sqlite_database.removeprefix("sqlite:///"))

    def pages() -> int:
        with get_engine().connect() as connection:
            return int(connection.exec_driver_sql("PRAGMA page_count").scalar() or 0)

    with transaction() as session:
        session.execute(text("INSERT INTO blobs (id, touched_at) VALUES ('blob', 0)"))
        session.execute(text("INSERT INTO chunks VALUES ('blob', 0, randomblob(3000000))"))
    full = pages()
    with transaction() as session:
        session.execute(text("DELETE FROM blobs"))
    assert pages() == full
    release_pages()
    assert pages() < full / 4
    assert file.exists()
