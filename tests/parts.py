"""A share of the tests that were asked for: `python -m pytest -m long -p tests.parts --part 3/16`.

Which share a test belongs to follows from the names of all of them, so that every machine and process chooses the same,
and shares differ by one test at most. Only the whole, 1/1, holds tests that take many minutes.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", type=_part, default=(1, 1), metavar="I/N", help="which of N shares to run, from 1 on")


def pytest_report_header(config: pytest.Config) -> str:
    number, parts = config.getoption("--part")
    return f"share {number} of {parts}"


@pytest.hookimpl(trylast=True)  # after what -m, -k and others leave out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    number, parts = config.getoption("--part")
    offered = [item for item in items if parts == 1 or item.get_closest_marker("longest") is None]
    chosen = share([item.nodeid for item in offered], number, parts)
    left = [item for item in items if item.nodeid not in chosen]
    items[:] = [item for item in items if item.nodeid in chosen]
    config.hook.pytest_deselected(items=left)


def share(names: Iterable[str], number: int, parts: int) -> set[str]:
    """The share of that number, from 1 on."""
    drawn = sorted(names, key=lambda name: sha256(name.encode()).digest())
    return set(drawn[number - 1 :: parts])


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not 1 <= int(number) <= int(parts):
        raise ValueError(text)
    return int(number), int(parts)
