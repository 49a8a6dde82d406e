"""The operators' commands; some of them against a real API."""

from tests.retort.client.conftest import api, service

__all__ = ["api", "service"]
