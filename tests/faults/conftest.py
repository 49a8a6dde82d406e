"""A folder that servers which run as somebody else may enter too, thrown away at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.installation import fresh_folder, remove


@pytest.fixture
def folder() -> Iterator[Path]:
    made = fresh_folder("test")
    yield made
    remove(made)
