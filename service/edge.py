"""The edge, which every request passes first: an id, the check of its host name, limits on its body and on the time
that takes, an answer to exceptions that nothing else caught, and its line in the log."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import metrics
from service.errors import BadRequest, InternalError, ServiceError, TooLarge, TooSlow, problem_response
from service.errors import quote as quote_value
from service.logs import bound
from service.settings import get_settings
from service.wire import HEADERS, SLOWEST_BYTES_PER_SECOND, new_request_id, running

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
ONCE = frozenset({
    "authorization", "content-digest", "content-encoding", "content-length", "content-type", "host",
    "idempotency-key", "if-range", "last-event-id", "range", "repr-digest", "transfer-encoding",
})  # fmt: skip
"""Headers that a request has once at most: of two, a proxy may believe the other one."""
DOCS = "/docs"
DOCS_POLICY = (
    "default-src 'none'; connect-src 'self'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https://fastapi.tiangolo.com; "
    "frame-ancestors 'none'"
)
"""Policy of the only page, which loads its scripts from where FastAPI takes them."""
DRAINED_BODIES = 4
"""Times the limit that is read and thrown away, so that the sender of too large a body still gets the answer."""

Settle = Callable[[Mapping[str, Any], int | None], Awaitable[None]]
"""Called with a request's state and its answer's status once that is out; None for a caller who left."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LargerBody:
    """An address whose bodies may be larger than JSON; its endpoint reads them as a stream."""

    method: str
    path: re.Pattern[str]
    max_bytes: int

    def takes(self, scope: Scope) -> bool:
        """Whether the request goes there."""
        return scope["method"] == self.method and self.path.fullmatch(scope["path"]) is not None


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settle: Settle, larger: Sequence[LargerBody] = ()) -> None:
        self.app = app
        self.settle = settle
        self.larger = larger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        larger = (one.max_bytes for one in self.larger if one.takes(scope))
        exchange = Exchange(scope, receive, send, next(larger, get_settings().max_body_bytes))
        with bound(request_id=exchange.id), running(scope):
            metrics.request_begins()
            try:
                await self._answer(exchange, scope)
                await self.settle(scope["state"], exchange.status)
            finally:
                exchange.end()

    async def _answer(self, exchange: Exchange, scope: Scope) -> None:
        try:
            exchange.check()
            await self.app(scope, exchange.receive, exchange.send)
        except ServiceError as refusal:
            await exchange.refuse(refusal)
        except ClientDisconnect:  # nobody reads the answer, which logs and metrics count as the caller's
            if exchange.status is None:
                await exchange.refuse(BadRequest("the connection broke within the body"))
        except Exception:
            log.exception("request %s failed", exchange.id)
            if exchange.status is not None:
                raise  # half an answer is out: only a broken connection tells the other side
            await exchange.refuse(InternalError(f"the service failed; its log has the reason under {exchange.id}"))


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body_bytes: int) -> None:
        self.id = new_request_id()
        self.status: int | None = None
        """The answer's status, once its beginning is out."""
        self._scope, self._receive, self._send = scope, receive, send
        self._limit = max_body_bytes
        self._began = time.monotonic()
        self._waited_seconds = 0.0
        self._whole = False
        self._read_bytes = self._sent_bytes = 0
        self._state = scope.setdefault("state", {})
        self._state["request_id"] = self.id

    def check(self) -> None:
        """Raise BadRequest or TooLarge where the request's head alone is enough for that."""
        if b"\0" in self._scope["path"].encode() or b"\0" in unquote_to_bytes(self._scope["query_string"]):
            raise BadRequest("the address holds a NUL character (%00); no name has one")
        headers = Headers(scope=self._scope)
        self._check_headers(headers)
        self._check_host(headers.get("host", ""))
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limit:
            raise self._too_large(int(length))

    async def receive(self) -> Message:
        """Wait for the next piece of the body, or for the caller to leave. Raises TooLarge when the body is larger than
        the limit, whatever the head said, and TooSlow."""
        if self._whole:
            return await self._receive()
        message = await self._receive_in_time()
        self._read_bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._read_bytes > self._limit:
            raise self._too_large(None)
        return message

    async def _receive_in_time(self) -> Message:
        """Wait for the next message for the time that is left; the server's own work in between does not count."""
        allowed = get_settings().patience_seconds + self._read_bytes / SLOWEST_BYTES_PER_SECOND
        began = time.monotonic()
        try:
            async with asyncio.timeout(allowed - self._waited_seconds):
                return await self._receive()
        except TimeoutError:
            found = f"{self._read_bytes:,} bytes of the body came in {allowed:.0f} s"
            raise TooSlow(f"{found}; no more is waited for") from None
        finally:
            self._waited_seconds += time.monotonic() - began

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self.id
            if self._scope["path"] == DOCS:
                headers.setdefault("Content-Security-Policy", DOCS_POLICY)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            route = getattr(self._scope.get("route"), "path", None)
            metrics.answered(route, self._scope["method"], message["status"], time.monotonic() - self._began)
        await self._send(message)
        self._sent_bytes += len(message.get("body", b""))

    def end(self) -> None:
        """Write the request's line into the log; its status is null where the caller left before an answer."""
        metrics.request_ends(received_bytes=self._read_bytes, sent_bytes=self._sent_bytes)
        line = {
            "method": self._scope["method"],
            # Without the query; quoted, so that no character of a caller breaks the line.
            "path": quote(self._scope["path"]),
            "status": self.status,
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
            try:
                message = await self._receive_in_time()
            except TooSlow:
                return
            more = message.get("more_body", False)
            self._read_bytes += len(message.get("body", b""))

    def _check_headers(self, headers: Headers) -> None:
        """Raise BadRequest for headers that others on the way may understand otherwise."""
        times = Counter(headers.keys())
        for name in ONCE & times.keys():
            if times[name] > 1:
                raise BadRequest(f"the request has {times[name]} headers {name}; wanted one")
        coding = headers.get("transfer-encoding", "chunked")
        if coding.lower() != "chunked":
            raise BadRequest(f"the body's Transfer-Encoding is {quote_value(coding)}; wanted 'chunked' or none")
        if "host" not in times and self._scope["http_version"] == "1.1":
            raise BadRequest("the request has no header host; HTTP/1.1 wants one")

    def _check_host(self, header: str) -> None:
        """Raise BadRequest unless the request is for a name of this service; that of a page which reaches this address
        by a name of its own (DNS rebinding) is not."""
        allowed = get_settings().allowed_hosts
        if not allowed and not _is_loopback((self._scope.get("server") or ("",))[0]):
            return
        try:
            found = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            found = ""
        if not any(_is_named(found, name.lower()) for name in allowed or LOOPBACK_NAMES):
            host = quote_value(header) if header else "no host"
            raise BadRequest(
                f"the request is for {host}, which is not among the names of this service (RETORT_ALLOWED_HOSTS)"
            )

    def _too_large(self, length: int | None) -> TooLarge:
        found = f"{length:,} bytes" if length is not None else "more"
        return TooLarge(f"the body has {found}; at most {self._limit:,} bytes are read")


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False  # a name, or the path of a socket


def _is_named(host: str, name: str) -> bool:
    return name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:]))
