"""The command line against a real API."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from retort.cli.main import app
from tests.retort.client.conftest import Service, api, service

__all__ = ["api", "service"]


@pytest.fixture
def retort(service: Service) -> Callable[..., Result]:
    """Runs the command with those words, in this process, against the API."""
    runner = CliRunner()

    def run(*words: str, input: str | None = None) -> Result:
        result = runner.invoke(app, words, input=input)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
