"""A backup holds everything, comes back whole or not at all, and no worker of before can write into what came back."""

from __future__ import annotations

import random
import re
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import permutations
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine, select

import service.db
from service.backup import FORMAT, BackupError, make_backup, restore, validate
from service.claims.repository import LostLease
from service.claims.service import cancel, fail, hand_back, record, renew, retry, succeed
from service.db import make_engine, reading, transaction
from service.jobs.models import State, Wanted
from service.kinds import EFFECTS
from service.migrations import downgrade, upgrade
from service.revisions import current, head
from service.workers.models import WorkerRow
from service.workers.repository import Machine, see
from tests.conftest import execute
from tests.service.claims.test_ownership import (
    CRASH,
    LEASE_SECONDS,
    change_row,
    event_log,
    metrics,
    must_take,
    row,
    take,
)
from tests.service.filling import Snapshot, fill, snapshot
from tests.service.rows import add_job, add_project
from tests.service.test_migrations import REVISIONS

Environment = Callable[..., None]

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)]
OTHERS = [pytest.param(*kinds, marks=pytest.mark.server) for kinds in permutations(["sqlite", "postgresql"])]
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
@pytest.mark.parametrize(("source", "target"), OTHERS, indirect=True)
def test_every_value_comes_back_from_each_kind_and_revision_in_the_other_kind(
    source: Engine, target: Engine, revision: str, tmp_path: Path
) -> None:
    upgrade(source, revision)
    fill(source)
    before = snapshot(source)
    made = make_backup(source, tmp_path / "backup")
    assert snapshot(source) == before
    assert current(source) == made.revision == revision
    restored = restore(target, tmp_path / "backup")
    assert restored == made == validate(tmp_path / "backup")
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


@on_sqlite("source")
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
    content, whole, noticed = file.read_bytes(), validate(file), 0
    chance = random.Random(3)
    for place in [*range(0, 100, 3), *chance.sample(range(len(content)), 80)]:
        changed = bytearray(content)
        changed[place] ^= 1 << chance.randrange(8)
        file.write_bytes(changed)
        try:
            # A byte that holds no row, such as a counter of writes or an index, may change.
            assert validate(file) == whole
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


@on_sqlite("source")
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


@on_sqlite("source")
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


@pytest.mark.parametrize("in_place", [False, True])
def test_a_fence_of_after_the_backup_is_refused_though_its_number_would_come_again(
    source: Engine, request: pytest.FixtureRequest, tmp_path: Path, environment: Environment, in_place: bool
) -> None:
    use(environment, source)
    upgrade(source)
    job_id = add_job(add_project())
    make_backup(source, tmp_path / "backup")
    old = must_take("old")
    with empty_database(source.dialect.name, request) as fresh:
        target = source if in_place else fresh
        restore(target, tmp_path / "backup", replace=in_place)
        use(environment, target)
        new = must_take("new")
        assert (new.job_id, new.attempt) == (old.job_id, old.attempt) == (job_id, 1)
        for refused in (
            lambda session: renew(session, old, LEASE_SECONDS),
            lambda session: record(session, old, [], None, "distilling"),
            lambda session: succeed(session, old, [], EFFECTS),
            lambda session: fail(session, old, CRASH),
            lambda session: cancel(session, old),
            lambda session: retry(session, old, CRASH),
            lambda session: hand_back(session, old),
        ):
            with pytest.raises(LostLease), transaction() as session:
                refused(session)
        with transaction() as session:
            assert succeed(session, new, [], EFFECTS) is State.succeeded


def test_each_restore_of_one_backup_gives_fences_of_its_own(
    source: Engine, tmp_path: Path, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def later(seconds: float) -> None:
        monkeypatch.setattr("service.db.clock_offset_seconds", service.db.clock_offset_seconds + seconds)

    use(environment, source)
    upgrade(source)
    job_id = add_job(add_project())
    make_backup(source, tmp_path / "backup")
    fences = [must_take().fence]
    for replace in (True, True, False, False, True):
        if not replace:  # as a fresh database, which knows nothing of the fences before
            later(60)
            downgrade(source)
        restore(source, tmp_path / "backup", replace=replace)
        for _ in range(3):
            fences.append(must_take().fence)
            later(LEASE_SECONDS + 1)
    assert fences == sorted(set(fences))
    change_row(job_id, fence=2**30)  # the clock was wrong once
    make_backup(source, tmp_path / "another")
    restore(source, tmp_path / "another", replace=True)
    assert 2**30 + 1000 < row(job_id).fence < 2**31


def test_a_running_job_goes_on_in_its_attempt_and_wishes_hold(
    source: Engine, tmp_path: Path, environment: Environment
) -> None:
    use(environment, source)
    upgrade(source)
    project_id = add_project()
    goes_on, unwanted, waits = (add_job(project_id, age=age, max_attempts=1) for age in (30, 20, 10))
    for _ in range(2):
        must_take("old")
    change_row(unwanted, wanted=Wanted.cancel)
    with transaction() as session:
        see(session, "old", host="here", job_id=goes_on, machine=Machine())
    made = make_backup(source, tmp_path / "backup")
    restore(source, tmp_path / "backup", replace=True)
    with reading() as session:
        assert list(session.scalars(select(WorkerRow))) == []
    taken = must_take("new")
    assert (taken.job_id, taken.attempt) == (goes_on, 1)
    assert [line.kind for line in event_log(goes_on)] == ["claimed", "requeued", "claimed"]
    assert event_log(goes_on)[1].body == {
        "text": f"the database was restored from the backup of {made.made_at}",
        "data": {"asker": "operator", "attempt": 1, "worker": "old", "fence": 1, "fault": "service",
                 "cause": "restored"},
    }  # fmt: skip
    assert row(unwanted).state is State.cancelled
    assert must_take("new").job_id == waits
    for job_id in (goes_on, unwanted, waits):
        lines = event_log(job_id)
        assert [line.number for line in lines] == list(range(1, len(lines) + 1))


@pytest.mark.long
def test_backups_and_restores_go_well_while_everybody_writes(
    source: Engine, tmp_path: Path, environment: Environment
) -> None:
    use(environment, source)
    upgrade(source)
    project_ids = [add_project(name) for name in ("left", "right")]
    jobs = {add_job(project_ids[number % 2], max_attempts=1000) for number in range(8)}
    ended, lost = threading.Event(), []

    def work(name: str) -> int:
        """Claim, write, hand back, as long as it may; gives how often it did."""
        count = 0
        while not ended.is_set():
            if (taken := take(name)) is None:
                time.sleep(0.01)
                continue
            try:
                for step in range(5):
                    with transaction() as session:
                        record(session, taken, [metrics(1000 * taken.fence + step, loss=1.0)], None, "distilling")
                with transaction() as session:
                    hand_back(session, taken)
                count += 1
            except LostLease:
                lost.append(taken)
        return count

    with ThreadPoolExecutor(3) as pool:
        working = [pool.submit(work, f"worker_{number}") for number in range(3)]
        for number in range(3):
            time.sleep(0.5)
            file = tmp_path / f"backup-{number}"
            make_backup(source, file)
            with closing(sqlite3.connect(file)) as connection:
                counted = "SELECT id, next_event - 1, (SELECT count(*) FROM events WHERE job_id = jobs.id) FROM jobs"
                rows = connection.execute(counted).fetchall()
            assert {job_id for job_id, *_ in rows} == jobs
            assert all(expected == found for _, expected, found in rows), "not one moment"
            time.sleep(0.2)
            restore(source, file, replace=True)
        time.sleep(0.5)
        ended.set()
        assert min(future.result() for future in working) > 0
    assert lost, "no worker was refused"
    for job_id in jobs:
        lines = event_log(job_id)
        assert [line.number for line in lines] == list(range(1, len(lines) + 1))
        fences = [line.body["data"]["fence"] for line in lines if line.kind == "claimed"]
        assert fences == sorted(set(fences))


def use(environment: Environment, engine: Engine) -> None:
    """The process's settings name that database."""
    environment(database_url=engine.url.render_as_string(hide_password=False))
