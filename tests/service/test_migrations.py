"""The migrations make what the models say, on both databases, and can be taken back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect

from service.db import Base, make_engine
from service.migrations import current, downgrade, head, upgrade


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
