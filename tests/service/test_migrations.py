"""The migrations make what the models say, on both databases, and can be taken back."""

from __future__ import annotations

import json
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
from sqlalchemy import Connection, Engine, event, inspect

import service.migrations
from service.db import Base, make_engine
from service.migrations import downgrade, upgrade
from service.revisions import current, head
from tests.conftest import free_port
from tests.service.filling import fill, shared, snapshot, tables_of

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


@pytest.mark.parametrize(
    "revision",
    [REVISIONS[0], *(pytest.param(revision, marks=pytest.mark.long) for revision in REVISIONS[1:-1]), REVISIONS[-1]],
)
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


@pytest.mark.parametrize("every", [16, pytest.param(1, marks=pytest.mark.long)])
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


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.long)])
def test_many_processes_upgrade_at_once_and_none_fails(database_url: str, engine: Engine, count: int) -> None:
    downgrade(engine)
    run = [sys.executable, "-m", "service.migrations"]
    environment = {**os.environ, "RETORT_DATABASE_URL": database_url}
    processes = [
        subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(count)
    ]
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, said
    assert current(engine) == head()
    test_models_and_migrations_agree(engine)


def test_a_database_that_cannot_be_used_ends_the_program_with_one_line() -> None:
    url = f"postgresql+psycopg://retort:pass-word@127.0.0.1:{free_port()}/retort"
    environment = {**os.environ, "RETORT_DATABASE_URL": url}
    run = [sys.executable, "-m", "service.migrations"]
    result = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=300, check=False)
    (line,) = map(json.loads, result.stderr.splitlines())
    assert (result.returncode, line["level"]) == (1, "critical")
    assert line["message"].startswith("nothing was migrated, since the database cannot be used: connection failed: ")
    assert "exception" not in line
    assert "pass-word" not in result.stderr


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


# Rows whose JSON a migration rewrites

TEACH = {"epochs": 2, "accumulate": 2, "keep_teacher_outputs": False}
NEW_TEACH = {"epochs": 2, "gradient_accumulation": 2, "cache_teacher_outputs": False}
OLD_RECIPE: dict[str, Any] = {
    "training": {"accumulate": 4, "lr": 0.1, "keep_teacher_outputs": True}, "teacher": {"teach": TEACH},
    "require_teacher_accuracy": 0.5, "students": [{"name": "accumulate"}],
}  # fmt: skip
NEW_RECIPE: dict[str, Any] = {
    "training": {"gradient_accumulation": 4, "lr": 0.1, "cache_teacher_outputs": True}, "teacher": {"teach": NEW_TEACH},
    "require_teacher": 0.5, "students": [{"name": "accumulate"}],
}  # fmt: skip
WITHOUT_TEACHER: dict[str, Any] = {"training": {"lr": 1.7976931348623157e308}, "teacher": None}
REPORTING = "reporting"
"""The phase of events of kind `report` here."""
REWRITTEN: dict[tuple[str, str], list[tuple[Any, Any]]] = {
    ("jobs", "spec"): [
        (OLD_RECIPE, NEW_RECIPE),
        ({"recipe": OLD_RECIPE}, {"recipe": NEW_RECIPE}),
        (WITHOUT_TEACHER, WITHOUT_TEACHER),
        ({"source": {"accumulate": 1}}, {"source": {"accumulate": 1}}),
    ],
    ("jobs", "progress"): [
        ({"student": "größe", "step": 7}, {"network": "größe", "step": 7}),
        (
            {"student": "a", "images_per_second": 5.5, "accuracy": 0.25, "loss": 1},
            {"network": "a", "examples_per_second": 5.5, "metric": "accuracy", "value": 0.25, "loss": 1},
        ),
        (
            {"student": "a", "accuracy": None},
            {"network": "a", "metric": "accuracy", "value": None},
        ),
        ({"student": None, "accuracy": None}, {"network": None, "metric": None, "value": None}),
        (None, None),
    ],
    ("jobs", "error"): [
        ({"fault": "recipe", "cause": "impossible"}, {"fault": "spec", "cause": "impossible"}),
        ({"fault": "machine", "cause": "recipe"}, {"fault": "machine", "cause": "recipe"}),
        (None, None),
    ],
    ("events", "body"): [
        ({"student": "student", "values": {"student": 0.5}}, {"network": "student", "values": {"student": 0.5}}),
        ({"student": None, "data": OLD_RECIPE}, {"network": None, "data": NEW_RECIPE}),
        ({"text": None, "data": {"fault": "recipe"}}, {"text": None, "data": {"fault": "spec"}}),
        ({"text": 'a "student" with a "fault"', "data": None}, {"text": 'a "student" with a "fault"', "data": None}),
        ({"data": {"sections": [{"learners": []}]}}, {"data": {"sections": [{"learners": []}]}}),
        (
            {"phase": REPORTING, "data": {"sections": [{"steps": 1, "learners": ["parts"]}], "parts": 1}},
            {"phase": REPORTING, "data": {"sections": [{"steps": 1, "networks": ["parts"]}], "splits": 1}},
        ),
        (
            {"phase": REPORTING, "data": {"classes": ["a", "b"], "networks": [{"name": "a", "collapse": {"nc1": 1}}]}},
            {
                "phase": REPORTING,
                "data": {
                    "classes": 2,
                    "class_names": ["a", "b"],
                    "networks": [{"name": "a", "diagnostics": {"nc1": 1}}],
                },
            },
        ),
        (
            {"phase": REPORTING, "data": {"classes": [{"name": "parts"}], "parts": {"train": 3}, "warnings": []}},
            {"phase": REPORTING, "data": {"classes": [{"name": "parts"}], "splits": {"train": 3}, "warnings": []}},
        ),
    ],
    ("datasets", "report"): [
        ({"parts": {"train": 2}, "parts_made": []}, {"splits": {"train": 2}, "parts_made": []}),
        (None, None),
    ],
}
"""By table and column at the newer revision: values before and after 0010."""
KINDS = ("distill", "estimate", "distill", "ingest")
DAYS = {"jobs": 1.5, "datasets": None, "models": 3.0, "uploads": 0.25}


def test_stored_words_follow_the_code_both_ways(engine: Engine) -> None:
    count = 230  # more than are in memory at once
    downgrade(engine, "0009")
    with engine.begin() as connection:
        _add_rows_of_0009(connection, count)
    before = snapshot(engine)
    upgrade(engine, "0010")
    after = snapshot(engine)
    for (table, column), values in REWRITTEN.items():
        rows = after[table][column]
        assert rows == [values[number % len(values)][1] for number in range(len(rows))], (table, column)
        assert len(rows) == count
        # The order of keys, too: a spec is shown as it was stored.
        assert list(map(str, rows)) == [str(values[number % len(values)][1]) for number in range(len(rows))]
    for thing, days in DAYS.items():
        assert after["projects"][f"{thing}_retention_days"] == [days]
    downgrade(engine, "0009")
    assert snapshot(engine) == before
    assert str(snapshot(engine)) == str(before)


def _add_rows_of_0009(connection: Connection, count: int) -> None:
    tables = tables_of(connection).tables
    days = {f"keep_{thing}_days": value for thing, value in DAYS.items()}
    connection.execute(tables["projects"].insert(), {"id": "p", "name": "p", "served_at": 0, "created_at": 0, **days})

    def old(table: str, column: str, number: int) -> Any:
        values = REWRITTEN[table, column]
        return values[number % len(values)][0]

    for number in range(count):
        job_id = f"job_{number:04}"
        job = {
            "id": job_id, "project_id": "p", "kind": KINDS[number % len(KINDS)], "name": "", "state": "failed",
            "wanted": "run", "priority": 0, "recipe": old("jobs", "spec", number),
            "progress": old("jobs", "progress", number), "error": old("jobs", "error", number), "latest": {},
            "attempt": 1, "max_attempts": 3, "fence": 1, "not_before": 0, "next_event": 2, "body_digest": "",
            "created_at": 0,
        }  # fmt: skip
        connection.execute(tables["jobs"].insert(), job)
        body = old("events", "body", number)
        kind = "report" if body.get("phase") == REPORTING else "metrics"
        event = {"job_id": job_id, "number": 1, "kind": kind, "at": 0, "attempt": 1, "body": body}
        connection.execute(tables["events"].insert(), event)
        dataset = {"id": f"dataset_{number:04}", "project_id": "p", "name": "", "source": {}, "created_at": 0}
        connection.execute(tables["datasets"].insert(), {**dataset, "report": old("datasets", "report", number)})
