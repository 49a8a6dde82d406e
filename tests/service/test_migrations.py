"""The migrations make what the models say, on both databases, and can be taken back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, inspect

import service.migrations
from service.db import Base, make_engine
from service.migrations import downgrade, upgrade
from service.revisions import current, head
from tests.service.filling import fill, shared, snapshot

REVISIONS = [script.revision for script in ScriptDirectory(Path(service.migrations.__file__).parent).walk_revisions()][
    ::-1
]
"""From the first to the newest."""
CHANGES = ("CREATE", "ALTER", "DROP", "UPDATE", "INSERT", "DELETE")


class Broken(Exception):
    """What a test makes a statement raise."""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


def test_models_and_migrations_agree(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, Base.metadata) == []


def test_a_difference_would_be_seen(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE workers")
        found = compare_metadata(MigrationContext.configure(connection), Base.metadata)
    assert [change[0] for change in found] == ["add_table"]


def test_downgrade_takes_everything_back_and_upgrade_makes_it_again(engine: Engine) -> None:
    assert current(engine) == head()
    downgrade(engine)
    assert current(engine) is None
    assert inspect(engine).get_table_names() == ["alembic_version"]
    upgrade(engine)
    assert current(engine) == head()
    assert set(Base.metadata.tables) < set(inspect(engine).get_table_names())


@pytest.mark.parametrize("revision", REVISIONS)
def test_no_row_is_lost_and_no_value_changed_on_any_way(engine: Engine, revision: str) -> None:
    downgrade(engine)
    upgrade(engine, revision)
    fill(engine)
    rows = snapshot(engine)
    assert all(values for columns in rows.values() for values in columns.values())
    upgrade(engine)
    newest = snapshot(engine)
    assert shared(newest, rows) == rows
    for older in reversed(REVISIONS):
        downgrade(engine, older)
        found = snapshot(engine)
        assert shared(found, newest) == shared(newest, found)
    downgrade(engine)
    upgrade(engine)
    test_models_and_migrations_agree(engine)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.parametrize("way", [upgrade, downgrade], ids=["up", "down"])
def test_a_migration_that_fails_anywhere_leaves_the_database_as_it_was(
    engine: Engine, way: Callable[[Engine, str], None], every: int
) -> None:
    """Anywhere: at its first statement that changes something, and at every so many after that."""
    for older, newer in zip(["base", *REVISIONS], REVISIONS, strict=False):
        downgrade(engine)
        upgrade(engine, older if way is upgrade else newer)
        fill(engine)
        before = snapshot(engine), schema(engine), current(engine)
        statement = 0
        while not fails_at(engine, statement, partial(way, engine, newer if way is upgrade else older)):
            assert (snapshot(engine), schema(engine), current(engine)) == before
            statement += every
        assert statement > 0, "nothing was broken"


def fails_at(engine: Engine, number: int, action: Callable[[], None]) -> bool:
    """Do that with a statement of that number raising; whether it was done, for it has fewer."""
    seen = 0

    @event.listens_for(engine, "after_cursor_execute")
    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal seen
        if statement.lstrip().startswith(CHANGES):
            seen += 1
            if seen == number + 1:
                raise Broken

    try:
        action()
    except Broken:
        return False
    finally:
        event.remove(engine, "after_cursor_execute", count)
    return True


def schema(engine: Engine) -> dict[str, Any]:
    """Every table with its columns and indexes."""
    seen = inspect(engine)
    return {
        table: (
            [str(column) for column in seen.get_columns(table)],
            sorted((str(index["name"]), *map(str, index["column_names"])) for index in seen.get_indexes(table)),
        )
        for table in seen.get_table_names()
        if table != "alembic_version"
    }


def test_many_processes_upgrade_at_once_and_none_fails(database_url: str, engine: Engine) -> None:
    downgrade(engine)
    run = [sys.executable, "-m", "service.migrations"]
    environment = {**os.environ, "RETORT_DATABASE_URL": database_url}
    processes = [
        subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(4)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert current(engine) == head()
    test_models_and_migrations_agree(engine)


def test_an_upgrade_twice_at_once_is_one_upgrade(engine: Engine) -> None:
    downgrade(engine)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(upgrade, [engine, engine]))
    assert current(engine) == head()


def test_an_empty_file_in_a_missing_folder_is_migrated(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path / 'not' / 'there' / 'retort.db'}")
    assert current(engine) is None
    upgrade(engine)
    assert current(engine) == head()
    engine.dispose()
