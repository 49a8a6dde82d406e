"""Connections on which no request runs: the edge cannot see them, since there is no request yet or no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import get_settings

CONNECTION = "connection"
"""Name of a request's connection in the state of its ASGI scope."""


@contextmanager
def running(scope: Scope) -> Iterator[None]:
    """Keep the connection of that request while it runs; without a server there is none."""
    connection = scope["state"].get(CONNECTION)
    if connection is None:
        yield
    else:
        with connection.running():
            yield


class PatientProtocol(asyncio.Protocol):
    """A connection, passed on to uvicorn's own protocol, and closed once no request has run on it for the patience of
    the settings: its next head is not whole by then, or its last body still comes although it was answered.

    An idle connection is closed earlier by uvicorn's keep-alive.
    """

    def __init__(self, app_state: Mapping[str, Any], **others: Any) -> None:
        self._uvicorn = HttpToolsProtocol(app_state={**app_state, CONNECTION: self}, **others)
        self._transport: asyncio.Transport | None = None
        self._running = 0
        self._deadline: asyncio.TimerHandle | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Keep the connection while a request runs on it."""
        self._running += 1
        self._stop_waiting()
        try:
            yield
        finally:
            self._running -= 1
            self._wait()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._uvicorn.connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._stop_waiting()
        self._uvicorn.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._uvicorn.data_received(data)

    def eof_received(self) -> None:
        self._uvicorn.eof_received()

    def pause_writing(self) -> None:
        self._uvicorn.pause_writing()

    def resume_writing(self) -> None:
        self._uvicorn.resume_writing()

    def _wait(self) -> None:
        if self._transport is not None and not self._running:
            self._stop_waiting()
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(get_settings().patience_seconds, self._transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
