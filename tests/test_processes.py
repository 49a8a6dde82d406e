"""Tests leave no process and no folder in memory behind: not when a set-up times out, and not when they are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import wait_until
from tests.processes import MARK, MEMORY, kill_tree, marked

ROOT = Path(__file__).parents[1]
HANG_SECONDS = 300

TIMES_OUT = """
import os
from pathlib import Path
import pytest
from tests.processes import MARK, marked
import tests.up
from tests.conftest import up

tests.up.START_SECONDS = 0.5

def test_whose_service_does_not_start_in_time(up):
    pass

def test_after_it():
    Path({mark!r}).write_text(os.environ[MARK])
    assert marked(os.environ[MARK]) == []
"""

WAITS = """
import os
import time
from pathlib import Path
import pytest
from tests.conftest import migrated_sqlite, postgresql_url, redis_server, up
from tests.processes import MARK, marked


def test_that_is_killed({fixtures}):
    Path({mark!r} + ".part").write_text(os.environ[MARK])
    os.rename({mark!r} + ".part", {mark!r})
    time.sleep(600)
"""


def start_pytest(folder: Path, program: str) -> subprocess.Popen[bytes]:
    """Tests of their own, in a process of their own."""
    file = folder / "test_inner.py"
    file.write_text(program)
    inner = ["--rootdir", str(folder), "--basetemp", str(folder / "inner")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *inner, str(file)]
    with (folder / "out").open("wb") as out:
        return subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)


def test_a_set_up_that_times_out_leaves_no_process(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    tests = start_pytest(tmp_path, TIMES_OUT.format(mark=str(mark)))
    try:
        tests.wait(HANG_SECONDS)
    finally:
        kill_tree(tests)
    said = (tmp_path / "out").read_text()
    assert "retort up starts: not within 0.5 s" in said
    assert "1 passed, " in said
    assert "1 error in " in said
    assert marked(mark.read_text()) == []


@pytest.mark.parametrize(
    ("fixtures", "least"),
    [
        ("up", 4),
        pytest.param("postgresql_url", 2, marks=pytest.mark.server),
        pytest.param("redis_server", 1, marks=pytest.mark.server),
    ],
)
def test_tests_that_are_killed_leave_no_process(tmp_path: Path, fixtures: str, least: int) -> None:
    """API, worker and a warm engine; PostgreSQL with its own processes; Redis."""
    file = tmp_path / "mark"
    tests = start_pytest(tmp_path, WAITS.format(mark=str(file), fixtures=fixtures))
    try:
        wait_until(lambda: file.exists() or tests.poll() is not None, "the fixtures are set up", HANG_SECONDS)
        if tests.poll() is not None and " is not installed" in (tmp_path / "out").read_text():
            pytest.skip("a server is not installed on this machine")
        assert file.exists(), (tmp_path / "out").read_text()
        mark = file.read_text()
        assert mark != os.environ[MARK]
        wait_until(lambda: len(marked(mark)) >= least, "all processes run", HANG_SECONDS)
        os.kill(tests.pid, signal.SIGKILL)
        tests.wait()
        wait_until(lambda: marked(mark) == [], "all of them end", HANG_SECONDS)
        wait_until(lambda: not [*MEMORY.glob(f"*{mark}*")], "their memory is given back", HANG_SECONDS)
    finally:
        kill_tree(tests)
