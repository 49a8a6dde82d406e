"""Connections that are waited for no longer than they are worth: what the edge cannot see, for no request is there."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.settings import get_settings


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's own protocol, which ends a connection whose next head is not whole in time, or whose body still comes
    in some time after it was answered. Between requests uvicorn's keep-alive rules."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience: asyncio.TimerHandle | None = None
        self._body_ends = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begin_to_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_to_wait()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._body_ends = False
        if self._patience is None:
            self._begin_to_wait()

    def on_headers_complete(self) -> None:
        self._stop_to_wait()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._body_ends = True
        self._stop_to_wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._body_ends and self._patience is None:
            self._begin_to_wait()

    def _begin_to_wait(self) -> None:
        self._patience = self.loop.call_later(get_settings().patience_seconds, self.transport.close)

    def _stop_to_wait(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
