"""Migrations: how the database's tables came to be, and the way there from any earlier state.

Run by `python -m service.migrations`, by `retort up` and by the tests; there is no other way to make a table.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

UPGRADE_LOCK = 7_376_511_204
"""PostgreSQL's advisory lock that keeps two upgrades apart, a number of our own choice. SQLite has one writer."""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the database to a revision, in one transaction."""
    with engine.begin() as connection:
        command.upgrade(_config(connection), revision)


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the database back to a revision, in one transaction; what only newer tables hold is lost."""
    with engine.begin() as connection:
        command.downgrade(_config(connection), revision)


def current(engine: Engine) -> str | None:
    """The revision that the database stands at; None before the first."""
    with engine.connect().execution_options(retort_reads=True) as connection:
        return MigrationContext.configure(connection).get_current_revision()


@lru_cache
def head() -> str:
    """The revision that this code was written for."""
    found = ScriptDirectory.from_config(_config(None)).get_current_head()
    if found is None:
        raise RuntimeError("service/migrations/versions holds no migration; an installation must bring it along")
    return found


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    if connection is not None and connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": UPGRADE_LOCK})
    return config
