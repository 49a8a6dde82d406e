"""The engine's process: its lines in and out, and that it never outlives the worker."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import wait_until
from tests.worker.plays import STAND_IN, alive
from worker.engine_process import EngineProcess

Start = Callable[[str], EngineProcess]


@pytest.fixture
def python() -> Iterator[Start]:
    engines: list[EngineProcess] = []

    def start(program: str) -> EngineProcess:
        engines.append(EngineProcess([sys.executable, "-c", program]))
        return engines[-1]

    yield start
    for engine in engines:
        engine.end()


def read_all(engine: EngineProcess) -> list[bytes]:
    said = []
    while not engine.finished():
        if line := engine.read(0.05):
            said.append(line)
    return said


def test_it_writes_lines_and_ends_with_a_code_and_a_tail_of_its_errors(python: Start) -> None:
    engine = python(
        "import sys; print('one'); print('two'); print('x' * 5000 + 'the end', file=sys.stderr); sys.exit(3)"
    )
    assert read_all(engine) == [b"one\n", b"two\n"]
    end = engine.end()
    assert (end.code, len(end.stderr_tail), end.stderr_tail[-8:]) == (3, 999, "xthe end")
    assert engine.end() == end


def test_it_reads_a_line_however_long(python: Start) -> None:
    engine = python("import sys; print(len(sys.stdin.readline()))")
    engine.send("x" * 1_000_000)
    assert read_all(engine) == [b"1000001\n"]
    assert engine.end().code == 0


def test_sending_to_a_process_that_does_not_read_does_not_wait(python: Start) -> None:
    engine = python("import time; time.sleep(60)")
    started = time.monotonic()
    engine.send("x" * 1_000_000)
    assert time.monotonic() - started < 30
    assert engine.end().code == -signal.SIGKILL


def test_nothing_is_signalled_once_it_is_reaped(python: Start) -> None:
    engine = python("pass")
    engine.end()
    engine.terminate()
    engine.kill()
    assert engine.exited()


def test_output_held_open_by_a_process_that_left_the_group_is_waited_for_only_so_long(python: Start) -> None:
    program = "import subprocess, sys; subprocess.Popen(['sleep', '8'], start_new_session=True); print('said')"
    engine = python(program)
    started = time.monotonic()
    assert read_all(engine) == [b"said\n"]
    assert time.monotonic() - started > 4.5


def test_it_ends_when_the_worker_is_gone() -> None:
    """Its standard input closes: nothing is left to signal it."""
    program = f"""
import time
from worker.engine_process import EngineProcess
engine = EngineProcess({list(STAND_IN)!r})
print(engine.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    wait_until(lambda: not alive(pid), "the engine ends")


def test_a_second_process_does_not_hold_the_firsts_standard_input() -> None:
    program = f"""
import time
from worker.engine_process import EngineProcess
first, second = EngineProcess({list(STAND_IN)!r}), EngineProcess(["sleep", "60"])
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
    engine = python("import os\nwhile True: os.write(1, bytes(1 << 16))")
    assert max(map(len, read_all(engine))) == 1 << 20
    assert engine.end().code == -signal.SIGKILL
