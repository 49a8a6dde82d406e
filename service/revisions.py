"""Revisions of the tables: that of this code, that of a database. service.migrations leads from one to the next.

Without Alembic, which takes memory: a front end only needs to know where its database stands.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from sqlalchemy import Connection, Engine, column, inspect, select, table

VERSION = table("alembic_version", column("version_num"))
"""Alembic's table of a database's revision."""


def current(engine: Engine) -> str | None:
    """The revision that the database stands at; None before the first."""
    with engine.connect().execution_options(retort_reads=True) as connection:
        return current_in(connection)


def current_in(connection: Connection) -> str | None:
    """The revision that the connection's database stands at; None before the first."""
    if not inspect(connection).has_table(VERSION.name):
        return None
    revision: str | None = connection.scalar(select(VERSION.c.version_num))
    return revision


def is_known(revision: str | None) -> bool:
    """Whether this code knows that revision; a newer version's it does not. All know None, the state before the
    first."""
    return revision is None or revision in _known()


def head() -> str:
    """The revision that this code was written for."""
    return _known()[-1]


@lru_cache
def _known() -> list[str]:
    """All that this code knows, in order: a migration's file begins with its own."""
    found = sorted(file.name.partition("_")[0] for file in Path(__file__).parent.glob("migrations/versions/0*.py"))
    if not found:
        raise RuntimeError("service/migrations/versions holds no migration; an installation must bring it along")
    return found
