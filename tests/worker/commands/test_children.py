"""The last line of a child that ended."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from worker.commands.children import ChildProcess


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('one'); print('two'); print()", "two"),
        ("raise SystemExit('the port is taken')", "the port is taken"),
        ("from service.logs import *; set_up(Settings()); raise ValueError('bad')", "ended by ValueError: bad"),
        ("print('{\"event\": 1}'); print([1])", "[1]"),
        ("", ""),
    ],
)
def test_its_last_line_or_the_message_of_it_is_given(code: str, words: str, tmp_path: Path) -> None:
    child = ChildProcess("worker", [sys.executable, "-c", code], tmp_path / "log", stop_seconds=5)
    child.start()
    deadline = time.monotonic() + 30
    while child.ended() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert child.last_line() == words
