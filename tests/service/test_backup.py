"""A backup holds everything, comes back whole or not at all, and no worker of before can write into what came back."""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine

from service.backup import FORMAT, BackupError, examine, make_backup, restore
from service.db import make_engine
from service.migrations import current, downgrade, head, upgrade
from tests.conftest import execute
from tests.service.filling import Snapshot, fill, snapshot
from tests.service.test_migrations import REVISIONS

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)]
SETTLED = {"jobs": ("fence", "lease_owner", "lease_ends", "attempt", "next_event")}
"""What a restore changes."""


def on_sqlite(*names: str) -> pytest.MarkDecorator:
    """Marks a test of the file, which depends on no kind of database."""
    return pytest.mark.parametrize(names, [("sqlite",) * len(names)], indirect=True)


@contextmanager
def empty_database(kind: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A database without a table."""
    name = f"empty_{uuid4().hex}"
    if kind == "sqlite":
        url = f"sqlite:///{request.getfixturevalue('tmp_path') / name}.db"
    else:
        server = request.getfixturevalue("postgresql_url")
        execute(server, f"CREATE DATABASE {name}")
        url = f"{server}/{name}"
    engine = make_engine(url)
    yield engine
    engine.dispose()
    if kind == "postgresql":
        execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with empty_database(request.param, request) as engine:
        yield engine


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with empty_database(request.param, request) as engine:
        yield engine


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_value_comes_back_from_each_kind_and_revision_in_each_kind(
    source: Engine, target: Engine, revision: str, tmp_path: Path
) -> None:
    upgrade(source, revision)
    fill(source)
    before = snapshot(source)
    made = make_backup(source, tmp_path / "backup")
    assert snapshot(source) == before
    assert current(source) == made.revision == revision
    restored = restore(target, tmp_path / "backup")
    assert restored == made == examine(tmp_path / "backup")
    assert current(target) == head()
    upgrade(source)
    assert without_settled(snapshot(target)) == without_settled(snapshot(source))


def without_settled(rows: Snapshot) -> Snapshot:
    """The rows without what a restore changes: the hold on jobs, and the workers, which are forgotten."""
    return {
        name: {column: values for column, values in columns.items() if column not in SETTLED.get(name, ())}
        for name, columns in rows.items()
        if name != "workers"
    }


def some_backup(source: Engine, folder: Path) -> Path:
    upgrade(source)
    fill(source)
    make_backup(source, folder / "backup")
    return folder / "backup"


@on_sqlite("target")
def test_a_file_that_is_no_backup_is_refused_in_one_sentence(target: Engine, tmp_path: Path) -> None:
    upgrade(target)
    before = snapshot(target)
    text, empty, other = tmp_path / "text", tmp_path / "empty", tmp_path / "other.db"
    text.write_text("not a database at all, but longer than the hundred bytes that the head of such a file takes" * 3)
    empty.touch()
    upgrade(make_engine(f"sqlite:///{other}"))
    for file in (text, empty, other):
        with pytest.raises(BackupError, match=rf"^{file} is not a backup; wanted a file that `retort backup` wrote$"):
            restore(target, file)
    with pytest.raises(BackupError, match=r"missing cannot be read: No such file or directory$"):
        restore(target, tmp_path / "missing")
    with pytest.raises(BackupError, match=r"cannot be read: Is a directory$"):
        restore(target, tmp_path)
    assert snapshot(target) == before


def test_a_backup_cut_short_is_refused_and_nothing_is_changed(source: Engine, tmp_path: Path) -> None:
    file = some_backup(source, tmp_path)
    before, content = snapshot(source), file.read_bytes()
    for size in (100, 4096, len(content) // 2, len(content) - 4096, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(BackupError, match=rf"^{file} is damaged: [^\n]+$"):
            restore(source, file, replace=True)
    assert snapshot(source) == before


@on_sqlite("source")
def test_a_byte_that_changed_anywhere_is_noticed(source: Engine, tmp_path: Path) -> None:
    file = some_backup(source, tmp_path)
    content, whole, noticed = file.read_bytes(), examine(file), 0
    chance = random.Random(3)
    for place in [*range(0, 100, 3), *chance.sample(range(len(content)), 80)]:
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        file.write_bytes(changed)
        try:
            # A byte that holds no row, such as a counter of writes or an index, may change.
            assert examine(file) == whole
        except BackupError:
            noticed += 1
    assert noticed > 80


@on_sqlite("source", "target")
def test_a_newer_backup_is_refused(source: Engine, target: Engine, tmp_path: Path) -> None:
    file = some_backup(source, tmp_path)
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    said = rf"^{file} stands at revision 9999, which this version of Retort does not know; wanted a newer version$"
    with pytest.raises(BackupError, match=said):
        restore(target, file)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(f"PRAGMA user_version={FORMAT + 1}")
    with pytest.raises(
        BackupError, match=rf"is a backup of format {FORMAT + 1}; this version of Retort reads {FORMAT}"
    ):
        restore(target, file)
    assert current(target) is None


def test_what_a_database_holds_is_given_up_only_when_that_is_said(source: Engine, tmp_path: Path) -> None:
    file = some_backup(source, tmp_path)
    first = snapshot(source)
    downgrade(source)
    upgrade(source, REVISIONS[0])
    fill(source, seed=1)
    second = snapshot(source)
    with pytest.raises(BackupError, match=r"^the database holds 12 projects and 12 jobs; --replace gives them up$"):
        restore(source, file)
    assert (snapshot(source), current(source)) == (second, REVISIONS[0])
    restore(source, file, replace=True)
    assert without_settled(snapshot(source)) == without_settled(first)
    assert current(source) == head()


def test_somebody_elses_tables_and_a_newer_database_are_left_alone(target: Engine, tmp_path: Path) -> None:
    backup_of = make_engine(f"sqlite:///{tmp_path / 'other.db'}")
    file = some_backup(backup_of, tmp_path)
    with target.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE cakes (id integer)")
    with pytest.raises(BackupError, match=r"^the database holds tables of something else: cakes$"):
        restore(target, file, replace=True)
    with target.begin() as connection:
        connection.exec_driver_sql("DROP TABLE cakes")
    upgrade(target)
    with target.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    for refused in (lambda: restore(target, file, replace=True), lambda: make_backup(target, tmp_path / "new")):
        with pytest.raises(BackupError, match=r"^the database stands at revision 9999, which this version"):
            refused()
    assert not (tmp_path / "new").exists()


def test_a_backup_is_written_into_a_new_file_or_none(source: Engine, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"^the database has no tables yet, so there is nothing to back up$"):
        make_backup(source, tmp_path / "backup")
    file = some_backup(source, tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(BackupError, match=rf"^{file} exists; a backup is written into a new file$"):
        make_backup(source, file)
    with pytest.raises(BackupError, match=r"cannot be written: No such file or directory$"):
        make_backup(source, tmp_path / "missing" / "backup")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith("empty_")] == ["backup"]


def test_a_full_disk_leaves_no_file(source: Engine, tmp_path: Path) -> None:
    upgrade(source)
    fill(source)
    folder = tmp_path / "backups"
    folder.mkdir()
    url = source.url.render_as_string(hide_password=False)
    program = f"""
import resource
from pathlib import Path
from service.backup import make_backup
from service.db import make_engine
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
make_backup(make_engine({url!r}), Path({str(folder / "backup")!r}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert re.search(r"BackupError: no backup was made: (disk I/O error|database or disk is full)\n$", done.stderr)
    assert list(folder.iterdir()) == []


def test_a_restore_that_is_killed_changes_nothing(source: Engine, tmp_path: Path) -> None:
    file = some_backup(source, tmp_path)
    downgrade(source)
    upgrade(source)
    fill(source, seed=1)
    before = snapshot(source)
    url = source.url.render_as_string(hide_password=False)
    program = f"""
import os, signal
from pathlib import Path
from service import backup
from service.db import make_engine
backup.disown = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
backup.restore(make_engine({url!r}), Path({str(file)!r}), replace=True)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    assert snapshot(source) == before
    restore(source, file, replace=True)
    assert snapshot(source) != before
