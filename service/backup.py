"""Backups: all that the database holds in one file, from which either kind of database can be made again.

The file is an SQLite database with the same tables at the same revision, and the digest of all their rows. A backup
is read from one snapshot while the service goes on; a restore is one transaction, so that it happens whole or not at
all, also while a service runs.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from alembic.util import CommandError as MigrationError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from service.db import database_now, let_idle
from service.jobs.event_log import append, change
from service.jobs.models import JobRow, State
from service.migrations import altering, downgrade_in, unaltered, upgrade_in
from service.revisions import current_in, is_known
from service.workers.models import WorkerRow

MARK = 0x52747274
"""SQLite's application_id of a backup: `Rtrt`."""
FORMAT = 1
"""SQLite's user_version of a backup."""
SQLITE = b"SQLite format 3\0"
SEAL = "CREATE TABLE backup (made_at VARCHAR NOT NULL, sha256 VARCHAR NOT NULL)"
APART = {"alembic_version", "backup", "sqlite_master"}
"""Tables that are not copied."""
ROWS, LARGE_ROWS = 1000, 16
"""Rows in memory at once; large ones hold a chunk of a blob each."""
FENCE_EPOCH = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
FENCE_STEP = 1_000_000
"""By which a fence rises where it is above the clock, which is wrong then."""
LOCK_SECONDS = 60.0
"""For which a restore tries to lock all tables of a database that is in use."""


class BackupError(Exception):
    """A backup cannot be made or restored; its text is one sentence for people, and nothing was changed."""


@dataclass(frozen=True)
class Contents:
    """The contents of a backup."""

    made_at: str
    """RFC 3339, in UTC."""
    revision: str
    rows: dict[str, int]
    """The number of rows, by table."""


def make_backup(engine: Engine, file: Path) -> Contents:
    """Write the database as it stands at this moment into a new file, whole or not at all. Raises BackupError."""
    if file.exists():
        raise BackupError(f"{file} exists; a backup is written into a new file")
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with _in_one_sentence("no backup was made"), _snapshot(engine) as source:
            contents = _fill(source, part)
        _sync(part)
        part.rename(file)
        _sync(file.parent)
    except OSError as error:
        raise BackupError(f"{file} cannot be written: {error.strerror}") from None
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return contents


def restore(engine: Engine, file: Path, *, replace: bool = False) -> Contents:
    """Make the database what it was when the backup was made, then bring it to this code's revision, and take all jobs
    from the workers that hold them: one transaction. Raises BackupError, and then nothing was changed.

    `replace`: the contents of the database are given up; without it the database must be empty.
    """
    contents = validate(file)
    with _in_one_sentence("nothing was restored"), _open(file, "ro") as source, altering(engine) as connection:
        highest = _make_room(connection, replace)
        upgrade_in(connection, contents.revision)
        _copy(source, connection)
        upgrade_in(connection)
        disown(connection, f"the database was restored from the backup of {contents.made_at}", above=highest)
    return contents


def disown(connection: Connection, why: str, above: int = 0) -> int:
    """Take all jobs from the workers that hold them, and forget the workers; gives how many jobs were running.

    A database that was set back to an earlier state needs that. A worker that lives on may hold a fence which the
    database is about to hand out again: so every fence rises above all that a worker may hold. It becomes the
    number of seconds since 2025, which is more than any job was claimed, and which a second restore of the same backup
    finds higher than the first left it; where the fences that were in use are known, it is above those in any case.
    Attempts that are cut short do not count.
    """
    largest = sa.func.greatest if connection.dialect.name == "postgresql" else sa.func.max
    seconds = sa.cast(database_now() - FENCE_EPOCH, sa.Integer)
    fence = largest(sa.case((seconds > JobRow.fence, seconds), else_=JobRow.fence + FENCE_STEP), above + 1)
    with Session(connection) as session:
        jobs = session.scalars(sa.select(JobRow).where(JobRow.state == State.running).order_by(JobRow.id)).all()
        for job in jobs:
            held = {"asker": "operator", "attempt": job.attempt, "worker": job.lease_owner, "fence": job.fence}
            append(session, job.id, job.attempt, [change("requeued", why, fault="service", cause="restored", **held)])
            job.lease_ends, job.attempt = 0.0, max(0, job.attempt - 1)
        session.flush()
        session.execute(sa.update(JobRow).values(fence=fence).execution_options(synchronize_session=False))
        session.execute(sa.delete(WorkerRow))
    return len(jobs)


@contextmanager
def _in_one_sentence(consequence: str) -> Iterator[None]:
    """Turn the errors of a database into BackupError, with the consequence before the reason."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, MigrationError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise BackupError(f"{consequence}: {reason}") from None


@contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    """A transaction that reads the database as it stands at one moment and waits for no writer."""
    options: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    if engine.dialect.name == "sqlite":
        options = {"retort_reads": True}
    with unaltered(engine), engine.connect() as connection:
        source = connection.execution_options(**options)
        let_idle(source)
        yield source


def _fill(source: Connection, file: Path) -> Contents:
    revision = current_in(source)
    if revision is None:
        raise BackupError("the database has no tables yet, so there is nothing to back up")
    if not is_known(revision):
        raise BackupError(_newer("the database", revision))
    made_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    with _open(file, "rw") as target:
        # A file that is not whole is thrown away, so that nothing has to be kept safe before its end.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"application_id={MARK}", f"user_version={FORMAT}"):
            target.exec_driver_sql(f"PRAGMA {pragma}")
        upgrade_in(target, revision)
        _copy(source, target)
    with closing(_connect(file, "rw")) as driver:
        driver.execute(SEAL)
        sha256, rows = _digest(driver)
        driver.execute("INSERT INTO backup VALUES (?, ?)", (made_at, sha256))
    return Contents(made_at, revision, rows)


def validate(file: Path) -> Contents:
    """The contents of a backup, after all of it was read. Raises BackupError when it is none, damaged, or too new."""
    try:
        with file.open("rb") as content:
            head = content.read(100)
    except OSError as error:
        raise BackupError(f"{file} cannot be read: {error.strerror}") from None
    if head[:16] != SQLITE or head[68:72] != MARK.to_bytes(4, "big"):
        raise BackupError(f"{file} is not a backup; wanted a file that `retort backup` wrote")
    if (number := int.from_bytes(head[60:64], "big")) > FORMAT:
        raise BackupError(f"{file} is a backup of format {number}; this version of Retort reads {FORMAT} at most")
    try:
        with closing(_connect(file, "ro")) as driver:
            [(revision,)] = driver.execute("SELECT version_num FROM alembic_version")
            if not is_known(revision):
                raise BackupError(_newer(str(file), revision))
            [(made_at, written)] = driver.execute("SELECT made_at, sha256 FROM backup")
            found, rows = _digest(driver)
    except (sqlite3.Error, ValueError) as error:
        raise BackupError(f"{file} is damaged: {error}") from None
    if found != written:
        raise BackupError(f"{file} is damaged: its rows are not those that were written into it")
    return Contents(made_at, revision, rows)


def _newer(what: str, revision: str) -> str:
    return f"{what} stands at revision {revision}, which this version of Retort does not know; wanted a newer version"


def _make_room(connection: Connection, replace: bool) -> int:
    """Leave no table; gives the highest fence that was in use. Raises BackupError when the database has contents and
    `replace` is not set."""
    revision = current_in(connection)
    if not is_known(revision):
        raise BackupError(_newer("the database", str(revision)))
    tables = _tables(connection)
    if revision is None:
        if tables.tables:
            raise BackupError(f"the database holds tables of something else: {', '.join(tables.tables)}")
        return 0
    if connection.dialect.name == "postgresql":
        _lock(connection, tables.sorted_tables)
    projects, jobs = (
        connection.scalar(sa.select(sa.func.count()).select_from(tables.tables[name])) for name in ("projects", "jobs")
    )
    if projects and not replace:
        raise BackupError(f"the database holds {projects} projects and {jobs} jobs; --replace gives them up")
    highest = connection.scalar(sa.select(sa.func.max(tables.tables["jobs"].c.fence)))
    for table in reversed(tables.sorted_tables):
        connection.execute(sa.delete(table))
    downgrade_in(connection)
    return highest or 0


def _lock(connection: Connection, tables: Sequence[sa.Table]) -> None:
    """Lock all tables against all others; a transaction that holds some of them is let through first, so that neither
    waits for the other."""
    statement = f"LOCK TABLE {', '.join(table.name for table in tables)} IN ACCESS EXCLUSIVE MODE NOWAIT"
    give_up_at = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(statement)
        except OperationalError:
            if time.monotonic() >= give_up_at:
                found = f"the database was in use for {LOCK_SECONDS:g} s on end"
                raise BackupError(f"{found}; stop the service and try again") from None
            time.sleep(0.05)
        else:
            return


def _copy(source: Connection, target: Connection) -> None:
    """Copy all rows into the same tables of another database, which are empty, a few at a time."""
    targets = _tables(target).tables
    for table in _tables(source).sorted_tables:
        large = any(isinstance(column.type, sa.LargeBinary) for column in table.columns)
        found = source.execute(sa.select(table), execution_options={"yield_per": LARGE_ROWS if large else ROWS})
        for rows in found.mappings().partitions():
            target.execute(sa.insert(targets[table.name]), [dict(row) for row in rows])


def _tables(connection: Connection) -> sa.MetaData:
    """The tables that are copied, as they are at the database's own revision."""
    tables = sa.MetaData()

    @sa.event.listens_for(tables, "column_reflect")
    def reflect(inspector: Any, table: sa.Table, column: Any) -> None:
        if isinstance(column["type"], sa.JSON):
            column["type"] = sa.JSON(none_as_null=column["nullable"])

    tables.reflect(connection, only=lambda name, _: name not in APART)
    return tables


def _digest(driver: sqlite3.Connection) -> tuple[str, dict[str, int]]:
    """sha256, hex, of all tables of a backup and their rows, and the number of rows of each."""
    digest, counts = hashlib.sha256(), {}
    found = driver.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'backup' ORDER BY name")
    for name in ["sqlite_master", *(name for (name,) in found)]:
        count = 0
        for row in driver.execute(f'SELECT * FROM "{name}" ORDER BY rowid'):
            large = [value for value in row if isinstance(value, bytes)]
            small = [len(value) if isinstance(value, bytes) else value for value in row]
            for content in (f"{name} {small!r}".encode(), *large):
                digest.update(content)
            count += 1
        if name not in APART:
            counts[name] = count
    return digest.hexdigest(), counts


@contextmanager
def _open(file: Path, mode: Literal["ro", "rw"]) -> Iterator[Connection]:
    engine = sa.create_engine("sqlite://", creator=lambda: _connect(file, mode), poolclass=sa.NullPool)
    with engine.connect() as connection:
        yield connection


def _connect(file: Path, mode: Literal["ro", "rw"]) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
