"""Migrations: how the database's tables came to be, and the way there from any earlier state.

Run by `python -m service.migrations`, by `retort up` and by the tests; there is no other way to make a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, text

from service.db import let_idle

UPGRADE_LOCK = 7_376_511_204
"""PostgreSQL's advisory lock that keeps two upgrades apart, a number of our own choice. SQLite has one writer."""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the database to a revision, in one transaction."""
    with altering(engine) as connection:
        upgrade_in(connection, revision)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the database back to a revision, in one transaction; what only newer tables hold is lost."""
    with altering(engine) as connection:
        downgrade_in(connection, revision)


@contextmanager
def altering(engine: Engine) -> Iterator[Connection]:
    """A transaction that may change tables: one at a time, and whole or not at all."""
    with engine.connect() as connection:
        change = _altering_sqlite if engine.dialect.name == "sqlite" else _altering_postgresql
        with change(connection):
            yield connection


@contextmanager
def unaltered(engine: Engine) -> Iterator[None]:
    """Keep tables from being changed meanwhile, after a change that is under way. On SQLite a reader's view never
    moves."""
    if engine.dialect.name == "sqlite":
        yield
        return
    with engine.begin() as connection:
        let_idle(connection)
        connection.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": UPGRADE_LOCK})
        yield


@contextmanager
def _altering_postgresql(connection: Connection) -> Iterator[None]:
    with connection.begin():
        let_idle(connection)
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
        yield


@contextmanager
def _altering_sqlite(connection: Connection) -> Iterator[None]:
    """SQLite changes a table by making it anew, and dropping the old one would take all rows that refer to it along:
    so references are checked at the end."""
    driver = connection.connection.cursor()  # the pragma works outside of transactions alone
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        with connection.begin():
            yield
            if astray := connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
                raise RuntimeError(f"{len(astray)} rows would refer to nothing, the first in the table {astray[0][0]}")
    finally:
        driver.execute("PRAGMA foreign_keys=ON")
        driver.close()


def upgrade_in(connection: Connection, revision: str = "head") -> None:
    """Go up to a revision in the caller's transaction, which `altering` gave."""
    command.upgrade(_config(connection), revision)


def downgrade_in(connection: Connection, revision: str = "base") -> None:
    """Go down to a revision in the caller's transaction, which `altering` gave."""
    command.downgrade(_config(connection), revision)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
