"""One engine a process, one transaction a request or a step of work, one clock: the database's."""

from __future__ import annotations

import enum
import sqlite3
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from select import POLLIN, poll
from typing import Any

import psycopg
from psycopg.pq import Format
from pydantic_core import from_json
from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Engine,
    Enum,
    MetaData,
    bindparam,
    create_engine,
    event,
    or_,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Session
from sqlalchemy.sql.expression import FunctionElement

from service.settings import get_settings

SQLITE_BUSY_SECONDS = 30
OLDEST_SQLITE = (3, 35)
"""The first with RETURNING."""
PAGES_A_STEP = 4096
"""Pages of SQLite that are given back at once, 16 MiB: other writers wait meanwhile."""
CONNECT_SECONDS = 5
POOL_SIZE = 20
"""Connections of a process at most; a thread that needs one more waits for its turn."""
POOL: dict[str, Any] = {
    # No overflow: what goes beyond a pool's size is connected and closed at every use, which takes longer than the use.
    "pool_size": POOL_SIZE, "max_overflow": 0, "pool_use_lifo": True, "json_deserializer": from_json,
}  # fmt: skip
SILENCE_MILLISECONDS = 15_000
"""For which PostgreSQL may leave sent bytes unacknowledged before the connection counts as dead."""
IDLE_SECONDS = 30.0
"""After which PostgreSQL ends a transaction that does nothing: its process sleeps or its machine has gone, and the rows
that it locked would be locked for hours."""
AS_BYTES = {"retort_bytes": True}
"""Execution options of a statement that reads bytes: PostgreSQL else spells them out in hexadecimal digits, which takes
twice the room and three times as long."""


class DatabaseAway(OperationalError):
    """The connection was lost, or none could be made."""


class DatabaseBusy(OperationalError):
    """Others were in the way: a lock that is held, a deadlock, a conflict. The same again may succeed."""


class DatabaseFull(OperationalError):
    """The database takes nothing now: its disk is full or broken, or it may only be read."""


LOST = (DatabaseAway, DatabaseBusy, DatabaseFull, PoolTimeoutError)
"""Exceptions after which the same may succeed later, for the fault lies with no statement. All other errors of the
database come again with the same statement."""
SQLSTATES: dict[str, type[OperationalError]] = {
    "42P01": DatabaseAway,  # undefined_table: it is not migrated yet
    "08": DatabaseAway, "57P": DatabaseAway, "25P03": DatabaseAway, "25P04": DatabaseAway, "53300": DatabaseAway,
    "40": DatabaseBusy, "55P03": DatabaseBusy, "57014": DatabaseBusy,
    "53000": DatabaseFull, "53100": DatabaseFull, "53200": DatabaseFull, "58": DatabaseFull, "25006": DatabaseFull,
}  # fmt: skip
"""PostgreSQL's codes, or their beginnings; the longest that fits counts."""
SQLITE_CODES: dict[int, type[OperationalError]] = {
    sqlite3.SQLITE_CANTOPEN: DatabaseAway,
    **dict.fromkeys(
        (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_INTERRUPT), DatabaseBusy
    ),
    **dict.fromkeys(
        (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOMEM), DatabaseFull
    ),
}
"""SQLite's primary result codes."""

Moment = ColumnElement[Any] | InstrumentedAttribute[Any]
"""Epoch seconds by the database's clock, in a column."""

_refusals: deque[float] = deque(maxlen=1)
"""When, by the monotonic clock, the database last took nothing; empty since something was written."""
WROTE = "wrote"
"""Key, in a connection's notes, of a transaction that has written."""

clock_offset_seconds = 0.0
"""Added to the database's clock; only tests set it."""


class Base(DeclarativeBase):
    """Base of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # Enums are stored as words: a type of PostgreSQL's own would need a migration of its own for every new word.
    type_annotation_map = {float: Double, enum.Enum: Enum(enum.Enum, native_enum=False, length=20)}


class database_now(FunctionElement[float]):  # noqa: N801 - it is called like an SQL function
    """Epoch seconds by the database's clock, as an SQL expression; it moves on within a transaction."""

    type = Double()
    inherit_cache = True

    def __init__(self) -> None:
        # A parameter that is read when the statement runs: the text stays the same, and is compiled once.
        super().__init__(bindparam("clock_offset", unique=True, type_=Double(), callable_=lambda: clock_offset_seconds))


@compiles(database_now, "postgresql")
def _postgresql_now(element: Any, compiler: Any, **options: Any) -> str:
    offset = compiler.process(element.clauses, **options)
    return f"(extract(epoch from clock_timestamp())::double precision + {offset})"


@compiles(database_now, "sqlite")
def _sqlite_now(element: Any, compiler: Any, **options: Any) -> str:
    # Not unixepoch('subsec'): SQLite before 3.42 answers NULL to that.
    return f"((julianday('now') - 2440587.5) * 86400.0 + {compiler.process(element.clauses, **options)})"


def read_now(session: Session) -> float:
    """Epoch seconds by the database's clock."""
    return session.scalars(select(database_now())).one()


def is_over(moment: Moment, longest: ColumnElement[float] | float) -> ColumnElement[bool]:
    """Whether a moment has come that was set at most `longest` seconds ahead. One that lies further ahead was set by a
    clock that has been set back since, and counts as over."""
    return or_(moment <= database_now(), moment > database_now() + longest)


def is_near(moment: Moment, seconds: float) -> ColumnElement[bool]:
    """Whether a moment was at most so many seconds ago, or lies as little ahead. One that lies further ahead was noted
    by a clock that has been set back since."""
    return moment.between(database_now() - seconds, database_now() + seconds)


def make_engine(url: str) -> Engine:
    """An engine for PostgreSQL (psycopg 3) or SQLite, set up as the job's ownership needs it."""
    engine = _sqlite_engine(url) if make_url(url).get_backend_name() == "sqlite" else _postgresql_engine(url)
    event.listen(engine, "after_cursor_execute", _note_write)
    event.listen(engine, "begin", lambda connection: connection.info.pop(WROTE, None))
    event.listen(engine, "commit", _forget_refusals)
    return engine


def _note_write(connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
    if context.isinsert or context.isupdate or context.isdelete:
        connection.info[WROTE] = True


def _forget_refusals(connection: Connection) -> None:
    """The database has taken something: a transaction that wrote nothing says nothing of its disk."""
    if not connection.invalidated and connection.info.pop(WROTE, False):
        _refusals.clear()


def _postgresql_engine(url: str) -> Engine:
    idle = f"-c idle_in_transaction_session_timeout={IDLE_SECONDS * 1000:.0f}"
    connect = {"connect_timeout": CONNECT_SECONDS, "tcp_user_timeout": SILENCE_MILLISECONDS, "options": idle}
    engine = create_engine(url, connect_args=connect, pool_timeout=CONNECT_SECONDS, **POOL)

    @event.listens_for(engine, "checkout")
    def look(connection: Any, record: Any, proxy: Any) -> None:
        # To an idle connection the server sends something only to end it. So this needs no round trip, and when the
        # server was restarted, all connections are made anew.
        socket = poll()
        socket.register(connection.fileno(), POLLIN)
        if socket.poll(0):
            raise InvalidatePoolError("the database ended the connection")

    @event.listens_for(engine, "before_cursor_execute")
    def choose_format(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        if context.execution_options.keys() >= AS_BYTES.keys():
            cursor.format = Format.BINARY

    event.listen(engine, "handle_error", _name)
    return engine


def _name(context: Any) -> None:
    """Raise the error by the name that says whether the same may succeed later, where it may."""
    kind = kind_of(context.original_exception, connected=context.connection is not None)
    if context.is_disconnect:
        kind = DatabaseAway
    if kind is DatabaseFull:
        _refusals.append(time.monotonic())
    if kind is not None:
        lost = bool(context.is_disconnect)
        raise kind(context.statement, None, context.original_exception, connection_invalidated=lost)


def kind_of(error: BaseException, *, connected: bool = True) -> type[OperationalError] | None:
    """The kind of a driver's error: one of LOST, or None where the same statement would meet it again."""
    if isinstance(error, sqlite3.OperationalError) and str(error).startswith("no such table"):
        return DatabaseAway  # it is not migrated yet
    if isinstance(error, sqlite3.Error):
        return SQLITE_CODES.get(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF)
    if not isinstance(error, psycopg.Error):
        return None
    if error.sqlstate is None:  # said by the driver itself, which has lost the server or never found it
        away = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or not connected
        return DatabaseAway if away else None
    fitting = [code for code in SQLSTATES if error.sqlstate.startswith(code)]
    return SQLSTATES[max(fitting, key=len)] if fitting else None


def is_unwritable(error: BaseException) -> bool:
    """Whether the database refused a value itself: it is too large, of a wrong form, or at odds with another."""
    if isinstance(error, UnicodeError | OverflowError):  # by the driver, before the database saw it
        return True
    return isinstance(error, DataError | IntegrityError) or (
        isinstance(error, DBAPIError) and str(getattr(error.orig, "sqlstate", "")).startswith("54")
    )


def why(error: BaseException) -> str:
    """An error of the database in one line, without the statement and the values in it."""
    return str(getattr(error, "orig", None) or error).partition("\n")[0]


def _sqlite_engine(url: str) -> Engine:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        raise RuntimeError(f"this Python brings SQLite {sqlite3.sqlite_version}; {wanted} or newer is needed")
    if file := make_url(url).database:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
    # isolation_level None keeps the driver from opening transactions by itself: the begin hook below does.
    connect = {"isolation_level": None, "timeout": SQLITE_BUSY_SECONDS}
    engine = create_engine(url, connect_args=connect, pool_timeout=SQLITE_BUSY_SECONDS, **POOL)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        if connection.execute("PRAGMA page_count").fetchone() == (0,):
            # Only an empty file takes it, and where there are tables already it would wait for the writer.
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
        for pragma in ("journal_mode=WAL", "foreign_keys=ON", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A deferred BEGIN that turns into a writer fails at once when another one wrote meanwhile, whatever the
        # busy timeout: so every writer begins as one, and waits its turn.
        reads = connection.get_execution_options().get("retort_reads", False)
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")

    event.listen(engine, "handle_error", _name)
    return engine


def let_idle(connection: Connection) -> None:
    """The connection's transaction may do nothing for as long as it likes; no job's row is locked by it."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")


@lru_cache
def get_engine() -> Engine:
    """The process's engine, made from the settings."""
    return make_engine(get_settings().database)


def release_pages() -> None:
    """Give back to the file system what deleted rows left free in a SQLite file; PostgreSQL does that by itself."""
    if get_engine().dialect.name == "sqlite":
        connection = get_engine().raw_connection()
        try:
            cursor, before, free = connection.cursor(), None, _free_pages(connection)
            while free and free != before:
                # Each step of the statement frees a page, and only a script takes all steps.
                cursor.executescript(f"PRAGMA incremental_vacuum({PAGES_A_STEP})")
                before, free = free, _free_pages(connection)
        finally:
            connection.close()


def _free_pages(connection: Any) -> int:
    return int(connection.cursor().execute("PRAGMA freelist_count").fetchone()[0])


@contextmanager
def transaction() -> Iterator[Session]:
    """A session that may write: it commits when the block ends and rolls back when it raises."""
    with Session(get_engine(), expire_on_commit=False) as session, session.begin():
        yield session


def refused_lately(seconds: float) -> bool:
    """Whether the database took nothing when this process last wrote, and that is no longer ago."""
    return any(time.monotonic() - at < seconds for at in _refusals)


@contextmanager
def reading() -> Iterator[Session]:
    """A session that only reads; keep it short. On SQLite it never waits for a writer, and all it reads is of one
    moment. On PostgreSQL each statement sees what was committed before it, and no transaction is begun or ended."""
    with Session(_for_reading(get_engine()), expire_on_commit=False) as session:
        yield session


@lru_cache(maxsize=1)
def _for_reading(engine: Engine) -> Engine:
    if engine.dialect.name == "sqlite":
        return engine.execution_options(retort_reads=True)
    return engine.execution_options(isolation_level="AUTOCOMMIT")
