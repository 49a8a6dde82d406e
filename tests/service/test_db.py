"""Transactions, the clock, and what each kind of database needs set up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from psycopg import errors
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError

from service.db import (
    LOST,
    DatabaseAway,
    DatabaseBusy,
    DatabaseFull,
    database_now,
    get_engine,
    is_unwritable,
    kind_of,
    make_engine,
    reading,
    release_pages,
    transaction,
)
from service.jobs.models import JobRow, State, Wanted
from service.projects.models import ProjectRow
from tests.service.rows import add_job, add_project


def now() -> float:
    with reading() as session:
        return session.scalar(select(database_now())) or 0.0


@pytest.mark.usefixtures("database")
def test_the_clock_is_epoch_seconds_with_fractions_and_can_be_set_off(monkeypatch: pytest.MonkeyPatch) -> None:
    before, read, after = time.time(), now(), time.time()
    assert before - 0.01 <= read <= after + 0.01
    time.sleep(0.002)  # SQLite counts in milliseconds
    assert now() % 1 != read % 1
    monkeypatch.setattr("service.db.clock_offset_seconds", 1000.0)
    assert now() == pytest.approx(time.time() + 1000, abs=1)


@pytest.mark.usefixtures("database")
def test_the_clock_moves_on_within_a_transaction() -> None:
    with transaction() as session:
        first = session.scalar(select(database_now())) or 0
        time.sleep(0.05)
        assert (session.scalar(select(database_now())) or 0) > first


@pytest.mark.usefixtures("database")
def test_a_statement_with_the_clock_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = get_engine()._compiled_cache
    assert cache is not None
    now()
    size = len(cache)
    for offset in range(5):
        monkeypatch.setattr("service.db.clock_offset_seconds", float(offset))
        now()
    assert len(cache) == size


@pytest.mark.usefixtures("database")
def test_a_transaction_is_committed_whole_or_not_at_all() -> None:
    project_id = add_project()

    def broken() -> None:
        with transaction() as session:
            session.execute(update(ProjectRow).values(name="lost"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken()
    with reading() as session:
        assert session.get_one(ProjectRow, project_id).name == "default"


@pytest.mark.usefixtures("database")
def test_a_job_reads_as_it_was_written() -> None:
    job_id = add_job(add_project(), latest={"student": {"accuracy": 0.5}}, wanted=Wanted.cancel)
    with reading() as session:
        job = session.get_one(JobRow, job_id)
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
                served_at = session.scalar(select(ProjectRow.served_at).with_for_update())
                session.execute(update(ProjectRow).values(served_at=(served_at or 0) + 1))

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(add_one) for _ in range(6)]:
            done.result()
    with reading() as session:
        assert session.scalar(select(ProjectRow.served_at)) == 60


@pytest.mark.usefixtures("database")
def test_a_reader_never_waits_for_a_writer() -> None:
    project_id = add_project()
    read: list[str] = []

    def look() -> None:
        with reading() as session:
            read.append(session.get_one(ProjectRow, project_id).name)

    with transaction() as session:
        session.execute(update(ProjectRow).values(name="new"))
        reader = threading.Thread(target=look)
        reader.start()
        reader.join(5)
        assert read == ["default"]


@pytest.mark.server
def test_connections_that_the_server_ended_are_made_anew(
    postgresql_database: str, environment: Callable[..., None]
) -> None:
    environment(database_url=postgresql_database)
    with transaction() as session:
        session.execute(text("SELECT 1"))
        now()  # by a second connection
    other = make_engine(postgresql_database)
    with other.connect() as connection:
        ended = text(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert connection.scalars(ended).all() == [True, True]
    other.dispose()
    for _ in range(3):
        assert now() > 0


@pytest.mark.server
def test_a_transaction_whose_process_sleeps_ends_and_frees_its_rows(
    postgresql_database: str, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a job whose worker was suspended at the wrong moment could be neither cancelled nor claimed."""
    monkeypatch.setattr("service.db.IDLE_SECONDS", 1.0)
    environment(database_url=postgresql_database)
    job_id = add_job(add_project())

    def write() -> None:
        with transaction() as session:
            session.execute(update(JobRow).where(JobRow.id == job_id).values(wanted=Wanted.cancel))

    def fall_asleep(other: ThreadPoolExecutor) -> None:
        with transaction() as session:
            session.execute(update(JobRow).where(JobRow.id == job_id).values(wanted=Wanted.run))
            other.submit(write).result(5)
            session.execute(select(JobRow.id))

    with ThreadPoolExecutor(1) as other, pytest.raises(OperationalError, match="idle-in-transaction"):
        fall_asleep(other)
    with reading() as session:
        assert session.get_one(JobRow, job_id).wanted is Wanted.cancel


def test_reading_opens_no_transaction(postgresql_database: str, environment: Callable[..., None]) -> None:
    environment(database_url=postgresql_database)
    add_project()
    mine = text("SELECT pg_backend_pid()")
    with reading() as session:
        reader = session.scalar(mine)
        with transaction() as other:
            state = text("SELECT state FROM pg_stat_activity WHERE pid = :pid")
            assert other.scalar(state, {"pid": reader}) == "idle"
    with transaction() as session:
        assert session.scalar(mine) == reader  # the connection that was given back last has transactions again
        session.execute(update(ProjectRow).values(name="lost"))
        session.rollback()
    with reading() as session:
        assert session.scalar(select(ProjectRow.name)) == "default"


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


def test_errors_of_postgresql_are_told_apart_by_their_codes() -> None:
    for codes, kind in (
        (("08006", "57P01", "57P02", "57P03", "53300", "25P03"), DatabaseAway),
        (("40001", "40P01", "55P03", "57014"), DatabaseBusy),
        (("53100", "53200", "58030", "25006"), DatabaseFull),
        (("54000", "54001", "22P05", "23505", "42703", "53400"), None),
    ):
        assert {kind_of(errors.lookup(code)()) for code in codes} == {kind}


def run(*statements: str, **values: object) -> None:
    """Those statements in one transaction."""
    with transaction() as session:
        for statement in statements:
            session.execute(text(statement), values)


@pytest.mark.server
def test_a_postgresql_that_is_away_or_refuses_a_value(
    postgresql_database: str, environment: Callable[..., None]
) -> None:
    environment(database_url=postgresql_database)
    add_project()
    run("CREATE UNIQUE INDEX by_tag ON job_tags (tag)")
    job_id = add_job("project_default")
    tag = "".join(chr(0x4E00 + i * 7 % 20_000) for i in range(3000))
    with pytest.raises(OperationalError, match="index row") as refused:
        run("INSERT INTO job_tags VALUES (:job_id, :tag)", job_id=job_id, tag=tag)
    assert not isinstance(refused.value, LOST)
    assert is_unwritable(refused.value)
    with pytest.raises(DatabaseFull, match="read-only"):
        run("SET TRANSACTION READ ONLY", "UPDATE jobs SET phase = 'x'")
    nowhere = make_engine(f"{postgresql_database}_not_there")
    with pytest.raises(DatabaseAway), nowhere.connect():
        pass
    with pytest.raises(DatabaseAway):
        run("SELECT pg_terminate_backend(pg_backend_pid())")


def test_a_sqlite_file_that_is_locked_full_or_read_only(
    sqlite_database: str, environment: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.db.SQLITE_BUSY_SECONDS", 0.05)
    environment(database_url=sqlite_database)
    add_project()
    with transaction() as session:
        session.execute(update(ProjectRow).values(name="x"))
        with ThreadPoolExecutor(1) as other, pytest.raises(DatabaseBusy):
            other.submit(add_project, "second").result()
    with pytest.raises(DatabaseFull):
        run("PRAGMA max_page_count = 1", "UPDATE projects SET name = hex(randomblob(1000000))")
    with pytest.raises(DatabaseFull):
        run("PRAGMA query_only = 1", "UPDATE projects SET name = 'y'")
    gone = Path(sqlite_database.removeprefix("sqlite:///")).with_name("gone")
    elsewhere = make_engine(f"sqlite:///{gone}/retort.db")
    gone.rmdir()
    with pytest.raises(DatabaseAway), elsewhere.connect():
        pass
