"""Connections, below the application: bounds on each part of a request that is no body, and an end to connections on
which no request runs. The edge cannot see them, since there is no request yet or no longer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from secrets import token_hex
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.errors import PROBLEM_JSON, BadRequest, HeadTooLarge, ServiceError, TargetTooLong, problem_body
from service.settings import get_settings

CONNECTION = "connection"
"""Name of a request's connection in the state of its ASGI scope."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
"""Headers of every answer, for browsers and caches, unless its endpoint sets others."""
MOST_TARGET_BYTES = 8 << 10
"""Bytes of a request's target: path and query."""
MOST_FIELDS = 200
"""Header fields of a request, its trailer's among them."""
MOST_HEAD_BYTES = 64 << 10
"""Bytes of a request's target and header fields, its trailer's among them; and of anything else that is no body: the
rest of a line that has not ended yet, the extensions of a chunk, lines before a head."""
MOST_PIPELINED = 16
"""Requests that wait on one connection for the answer to the one before."""
SLOWEST_BYTES_PER_SECOND = 10_000
"""The pace of a caller, sending or reading, that is waited for."""
LINGER_SECONDS = 1.0
"""Seconds for which a refused connection is still read, so that its sender gets the answer."""

log = logging.getLogger(__name__)


def new_request_id() -> str:
    """The id of a request, for its answer and for the log."""
    return f"req_{token_hex(12)}"


@contextmanager
def running(scope: Scope) -> Iterator[None]:
    """Keep the connection of that request while it runs; without a server there is none."""
    connection = scope["state"].get(CONNECTION)
    if connection is None:
        yield
    else:
        with connection.running():
            yield


class BoundedProtocol(HttpToolsProtocol):
    """A connection of uvicorn's that refuses heads, trailers and other lines beyond their bounds, and is closed once no
    request has run on it for the patience of the settings: its next head is not whole by then, or its last body still
    comes although it was answered. A caller that does not read its answer is left as well.

    An idle connection is closed earlier by uvicorn's keep-alive.
    """

    def __init__(self, app_state: Mapping[str, Any], **others: Any) -> None:
        super().__init__(app_state={**app_state, CONNECTION: self}, **others)
        self._running = 0
        self._deadline: asyncio.TimerHandle | None = None
        """The end of the wait for the next request."""
        self._read_by: asyncio.TimerHandle | None = None
        """The end of the wait for a caller that does not read its answer."""
        self._fields = self._head_bytes = self._target_bytes = 0
        self._unparsed_bytes = 0
        """Bytes since the parser last found the end of anything."""
        self._in_head = True
        self._deaf = False
        """Whether nothing more is read of what comes."""
        self._refusal: ServiceError | None = None
        """The refusal that a callback of the parser raised; the parser's own error does not hold it."""

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
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deaf = True
        self._stop_waiting()
        self._stop_waiting_for_reader()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        seconds = get_settings().patience_seconds + self.transport.get_write_buffer_size() / SLOWEST_BYTES_PER_SECOND
        self._read_by = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_waiting_for_reader()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._unparsed_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:
            self._leave_after_the_answer()
        except HttpParserError as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            self._refuse(self._refusal or BadRequest(f"the request is not HTTP/1.1: {reason}"))
        else:
            if self._unparsed_bytes > MOST_HEAD_BYTES:
                self._refuse(_head_too_large())

    # Callbacks of the parser. An error that is raised in one ends the parsing.

    def on_message_begin(self) -> None:
        self._unparsed_bytes = self._fields = self._head_bytes = self._target_bytes = 0
        self._in_head = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._target_bytes += len(url)
        if self._target_bytes > MOST_TARGET_BYTES:
            self._raise(TargetTooLong(f"the request's target has more than {MOST_TARGET_BYTES:,} bytes"))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unparsed_bytes = 0
        self._fields += 1
        self._head_bytes += len(name) + len(value)
        if self._fields > MOST_FIELDS or self._target_bytes + self._head_bytes > MOST_HEAD_BYTES:
            self._raise(_head_too_large())
        if self._in_head:  # a trailer's fields are none of the head's: nothing reads them
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed_bytes, self._in_head = 0, False
        if len(self.pipeline) >= MOST_PIPELINED:
            self._raise(BadRequest(f"more than {MOST_PIPELINED} requests wait on one connection"))
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        super().on_message_complete()

    def _raise(self, refusal: ServiceError) -> None:
        self._refusal = refusal
        raise refusal

    def _leave_after_the_answer(self) -> None:
        """Serve a request that offers another protocol as it is, and read nothing of what follows."""
        self._deaf = True
        self.cycle.keep_alive = False
        if self.cycle.response_complete:
            self.transport.close()

    def _refuse(self, refusal: ServiceError) -> None:
        """Answer in the application's place, where no answer has begun, and close the connection."""
        self._deaf = True
        begun = self.cycle is not None and not self.cycle.response_complete
        if begun and (self.pipeline or self.cycle.response_started):
            self.transport.close()
            return
        if begun:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        request_id = new_request_id()
        log.info("request %s refused: %s", request_id, refusal)
        self.transport.write(_raw(refusal, request_id))
        self.transport.write_eof()
        self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def _wait(self) -> None:
        if not self._running and self.transport is not None and not self.transport.is_closing():
            self._stop_waiting()
            self._deadline = self.loop.call_later(get_settings().patience_seconds, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_waiting_for_reader(self) -> None:
        if self._read_by is not None:
            self._read_by.cancel()
            self._read_by = None


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"the request's head has more than {MOST_FIELDS} fields, or more than {MOST_HEAD_BYTES:,} bytes in all or in "
        "one line; no request here needs as many"
    )


def _raw(refusal: ServiceError, request_id: str) -> bytes:
    """The whole answer as it goes over the wire."""
    body = problem_body(refusal, "", request_id).encode()
    headers = {
        **HEADERS,
        **refusal.headers,
        "X-Request-ID": request_id,
        "Content-Type": PROBLEM_JSON,
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[refusal.status] + lines.encode("latin-1") + b"\r\n" + body
