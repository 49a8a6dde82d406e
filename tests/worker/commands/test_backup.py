"""Backup and restore as commands, next to a database; no service runs.

Of each kind one runs as a process of its own; refusals, of which there are many, run in this one.
"""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from retort.cli.main import app
from service.db import make_engine
from tests.service.filling import Snapshot, fill, snapshot


def run(*words: str, given: bytes | None = None, output: int = subprocess.PIPE) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RETORT_")}
    command = [sys.executable, "-m", "retort.cli.main", *words]
    return subprocess.run(
        command, input=given, stdout=output, stderr=subprocess.PIPE, env=environment, timeout=300, check=False
    )


def projects(data_dir: Path) -> Snapshot:
    engine = make_engine(f"sqlite:///{data_dir / 'retort.db'}")
    found = snapshot(engine)
    engine.dispose()
    return {"projects": found["projects"]}


@pytest.fixture
def run_here(environment: Callable[..., None]) -> Iterator[Callable[..., Result]]:
    """Runs the command in this process, which forgets its settings before each call."""

    def run(*words: str) -> Result:
        environment()
        return CliRunner().invoke(app, words)

    mask = os.umask(0)
    os.umask(mask)
    yield run
    os.umask(mask)


@pytest.fixture(scope="module")
def filled_once(migrated_sqlite: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that holds something, to be copied."""
    file = tmp_path_factory.mktemp("filled") / "retort.db"
    shutil.copyfile(migrated_sqlite, file)
    engine = make_engine(f"sqlite:///{file}")
    fill(engine)
    engine.dispose()
    return file


@pytest.fixture
def filled(filled_once: Path, tmp_path: Path) -> str:
    """A data directory whose database holds something."""
    (tmp_path / "filled").mkdir()
    shutil.copyfile(filled_once, tmp_path / "filled" / "retort.db")
    return str(tmp_path / "filled")


def test_a_backup_goes_into_a_file_and_comes_back(filled: str, tmp_path: Path) -> None:
    file = str(tmp_path / "backup")
    made = run("backup", file, "--data-dir", filled)
    assert (made.returncode, made.stdout) == (0, b""), made.stderr
    assert made.stderr.startswith(b"Backed up 12 projects, 12 jobs, 12 events, 12 artifacts of 20")
    restored = run("restore", file, "--data-dir", str(tmp_path / "fresh"))
    assert (restored.returncode, restored.stdout) == (0, b""), restored.stderr
    assert restored.stderr == made.stderr.replace(b"Backed up", b"Restored")
    assert projects(tmp_path / "fresh") == projects(Path(filled))


def test_a_backup_goes_through_pipes(filled: str, tmp_path: Path) -> None:
    made = run("backup", "-", "--data-dir", filled)
    assert made.stdout.startswith(b"SQLite format 3\0")
    fresh = str(tmp_path / "fresh")
    cut = run("restore", "-", "--data-dir", fresh, given=made.stdout[:-1])
    assert (cut.returncode, cut.stdout) == (1, b"")
    assert b"standard-input is damaged: " in cut.stderr
    assert cut.stderr.count(b"\n") == 1
    assert run("restore", "-", "--data-dir", fresh, given=made.stdout).returncode == 0
    assert projects(Path(fresh)) == projects(Path(filled))


def test_a_standard_output_that_takes_no_backup_is_refused_in_one_sentence(filled: str) -> None:
    terminal, own = pty.openpty()
    for output, code, sentence in (
        (
            os.open("/dev/full", os.O_WRONLY),
            1,
            b"standard output did not take the whole backup: No space left on device",
        ),
        (own, 2, b"a backup is no text for a terminal; wanted: retort backup - > FILE"),
    ):
        refused = run("backup", "-", "--data-dir", filled, output=output)
        assert (refused.returncode, refused.stderr) == (code, b"retort: " + sentence + b"\n")
        os.close(output)
    os.close(terminal)


def test_refusals_are_one_sentence(filled: str, tmp_path: Path, run_here: Callable[..., Result]) -> None:
    file = str(tmp_path / "backup")
    assert run_here("backup", file, "--data-dir", filled).exit_code == 0
    for words, sentence in (
        (("backup", file), f"{file} exists; a backup is written into a new file"),
        (("restore", file), "the database holds 12 projects and 12 jobs; --replace gives them up"),
        (("restore", f"{file}s"), f"{file}s cannot be read: No such file or directory"),
    ):
        refused = run_here(*words, "--data-dir", filled)
        assert (refused.exit_code, refused.stderr) == (1, f"retort: {sentence}\n")
    assert run_here("restore", file, "--replace", "--data-dir", filled).exit_code == 0
    empty = run_here("disown", "--data-dir", str(tmp_path / "fresh"))
    assert (empty.exit_code, empty.stderr.count("\n")) == (1, 1)
    assert empty.stderr.startswith("retort: the database cannot be used: ")


def test_a_database_that_came_back_otherwise_is_taken_from_its_workers(filled: str) -> None:
    done = run("disown", "--data-dir", filled)
    assert (done.returncode, done.stderr) == (0, b"Done; 0 running jobs wait for a worker.\n")
    engine = make_engine(f"sqlite:///{filled}/retort.db")
    found = snapshot(engine)
    engine.dispose()
    assert found["workers"]["id"] == []
    assert min(found["jobs"]["fence"]) > 50_000_000
