"""Time on the database's clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Later = Callable[[float], None]


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    """Lets time pass on the database's clock."""
    passed = 0.0

    def pass_seconds(seconds: float) -> None:
        nonlocal passed
        passed += seconds
        monkeypatch.setattr("service.db.clock_offset_seconds", passed)

    return pass_seconds
