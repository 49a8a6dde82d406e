"""The child process: what it says and hears, and that it never outlives anybody."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import wait_until
from tests.worker.plays import STAND_IN, alive
from worker.engine_process import Child

Start = Callable[[str], Child]


@pytest.fixture
def python() -> Iterator[Start]:
    children: list[Child] = []

    def start(program: str) -> Child:
        children.append(Child([sys.executable, "-c", program]))
        return children[-1]

    yield start
    for child in children:
        child.end()


def read_all(child: Child) -> list[bytes]:
    said = []
    while not child.finished():
        if line := child.read(0.05):
            said.append(line)
    return said


def test_it_says_lines_and_ends_with_a_code_and_last_words(python: Start) -> None:
    child = python(
        "import sys; print('one'); print('two'); print('x' * 5000 + 'the end', file=sys.stderr); sys.exit(3)"
    )
    assert read_all(child) == [b"one\n", b"two\n"]
    end = child.end()
    assert (end.code, len(end.last_words), end.last_words[-8:]) == (3, 999, "xthe end")
    assert child.end() == end


def test_it_hears_a_line_however_long(python: Start) -> None:
    child = python("import sys; print(len(sys.stdin.readline()))")
    child.tell("x" * 1_000_000)
    assert read_all(child) == [b"1000001\n"]
    assert child.end().code == 0


def test_telling_a_child_that_does_not_listen_does_not_wait(python: Start) -> None:
    child = python("import time; time.sleep(60)")
    started = time.monotonic()
    child.tell("x" * 1_000_000)
    assert time.monotonic() - started < 30
    assert child.end().code == -signal.SIGKILL


def test_nothing_is_signalled_once_it_is_reaped(python: Start) -> None:
    child = python("pass")
    child.end()
    child.ask_to_stop()
    child.kill()
    assert child.exited()


def test_output_held_open_by_a_process_that_left_the_group_is_waited_for_only_so_long(python: Start) -> None:
    program = "import subprocess, sys; subprocess.Popen(['sleep', '8'], start_new_session=True); print('said')"
    child = python(program)
    started = time.monotonic()
    assert read_all(child) == [b"said\n"]
    assert time.monotonic() - started > 4.5


def test_it_ends_when_the_worker_is_gone() -> None:
    """The pipe of life: nobody is left to signal it."""
    program = f"""
import time
from worker.engine_process import Child
child = Child({list(STAND_IN)!r})
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid), "the engine ends")


def test_a_second_child_does_not_hold_the_firsts_pipe_of_life() -> None:
    program = f"""
import time
from worker.engine_process import Child
first, second = Child({list(STAND_IN)!r}), Child(["sleep", "60"])
print(first.pid, second.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        first, second = map(int, parent.stdout.readline().split())
        parent.kill()
    wait_until(lambda: not alive(first), "the engine ends")
    assert alive(second)
    subprocess.run(["kill", "-9", str(second)], check=True)


def test_a_line_without_end_ends_it(python: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine_process.LONGEST_LINE", 1 << 20)
    child = python("import os\nwhile True: os.write(1, bytes(1 << 16))")
    assert max(map(len, read_all(child))) == 1 << 20
    assert child.end().code == -signal.SIGKILL
