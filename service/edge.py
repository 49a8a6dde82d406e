"""What every request goes through first: an id, a limit on its body, a last net for what nobody caught, and its line
in the log."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_hex
from urllib.parse import quote, unquote_to_bytes

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.errors import BadRequest, InternalError, ServiceError, TooLarge, problem_response
from service.logs import bound

DRAINED_BODIES = 4
"""How many times the limit is read and thrown away, so that who sends too much still hears why."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LargerBody:
    """An address whose bodies may be larger than JSON: its endpoint reads them as a stream."""

    method: str
    path: re.Pattern[str]
    max_bytes: int

    def takes(self, scope: Scope) -> bool:
        """Whether the request goes there."""
        return scope["method"] == self.method and self.path.fullmatch(scope["path"]) is not None


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, larger: Sequence[LargerBody] = ()) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = next((larger.max_bytes for larger in self.larger if larger.takes(scope)), self.max_body_bytes)
        exchange = Exchange(scope, receive, send, limit)
        with bound(request_id=exchange.id):
            metrics.request_begins()
            try:
                await self._answer(exchange, scope)
            finally:
                exchange.end()

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        try:
            exchange.check()
            await self.app(scope, exchange.receive, exchange.send)
        except ServiceError as refusal:
            await exchange.refuse(refusal)
        except Exception:
            log.exception("request %s failed", exchange.id)
            if exchange.answering:
                raise  # half an answer is out: only a broken connection tells the other side
            await exchange.refuse(InternalError(f"the service failed; its log has the reason under {exchange.id}"))


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self.id = f"req_{token_hex(12)}"
        self._scope, self._receive, self._send = scope, receive, send
        self._limit = max_body_bytes
        self._began = time.monotonic()
        self._read_bytes = self._sent_bytes = 0
        self._status: int | None = None
        self._state = scope.setdefault("state", {})
        self._state["request_id"] = self.id

    @property
    def answering(self) -> bool:
        """Whether the answer's beginning is out."""
        return self._status is not None

    def check(self) -> None:
        """Raise what can be said by looking at the request's head alone."""
        if b"\0" in self._scope["path"].encode() or b"\0" in unquote_to_bytes(self._scope["query_string"]):
            raise BadRequest("the address holds a NUL character (%00); no name has one")
        promised = Headers(scope=self._scope).get("content-length", "")
        if promised.isdigit() and int(promised) > self._limit:
            raise self._too_large(int(promised))

    async def receive(self) -> Message:
        """The next piece of the body; raises TooLarge when it is more than the limit, whatever the head promised."""
        message = await self._receive()
        self._read_bytes += len(message.get("body", b""))
        if self._read_bytes > self._limit:
            raise self._too_large(None)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.id
            headers["X-Content-Type-Options"] = "nosniff"
            route = getattr(self._scope.get("route"), "path", None)
            metrics.answered(route, self._scope["method"], message["status"], time.monotonic() - self._began)
        await self._send(message)
        self._sent_bytes += len(message.get("body", b""))

    def end(self) -> None:
        """Write the request's line into the log; a status of null is a caller who left before there was an answer."""
        metrics.request_ends(received_bytes=self._read_bytes, sent_bytes=self._sent_bytes)
        line = {
            "method": self._scope["method"],
            # Without the query; quoted, so that nothing a caller writes breaks the line.
            "path": quote(self._scope["path"]),
            "status": self._status,
            "milliseconds": round(1000 * (time.monotonic() - self._began), 1),
            "received_bytes": self._read_bytes,
            "sent_bytes": self._sent_bytes,
            **self._state.get("caller", {}),
        }
        log.info("request", extra=line)

    async def refuse(self, refusal: ServiceError) -> None:
        if isinstance(refusal, TooLarge):
            await self._drain()
        await problem_response(Request(self._scope), refusal)(self._scope, self._receive, self.send)

    async def _drain(self) -> None:
        """Read on and throw away: a connection that is closed with bytes unread may lose the answer."""
        more = True
        while more and self._read_bytes <= DRAINED_BODIES * self._limit:
            message = await self._receive()
            more = message.get("more_body", False)
            self._read_bytes += len(message.get("body", b""))

    def _too_large(self, promised: int | None) -> TooLarge:
        found = f"{promised:,} bytes" if promised is not None else "more"
        return TooLarge(f"the body has {found}; at most {self._limit:,} bytes are read")
