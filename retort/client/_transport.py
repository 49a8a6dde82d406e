"""Requests, repeated where that is safe, and answers as types or typed errors."""

from __future__ import annotations

import os
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from retort.client._types import AnswerPage
from retort.client.errors import ErrorInfo, UnexpectedAnswerError, UnreachableError, error_for

DEFAULT_URL = "http://127.0.0.1:8765"
TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
TRANSIENT = frozenset({429, 502, 503, 504})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

Result = TypeVar("Result", bound=BaseModel)
Outcome = TypeVar("Outcome")


class Transport:
    """HTTP connections to one service, with one key."""

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        self.url = (url or os.environ.get("RETORT_URL") or DEFAULT_URL).rstrip("/")
        check_url(self.url)
        key = key or os.environ.get("RETORT_KEY") or read_embedded_key(self.url)
        self.has_key = bool(key)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=self.url, timeout=TIMEOUT, headers=headers, verify=authorities(self.url))

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, kind: type[Result], params: Mapping[str, Any] | None = None) -> Result:
        return self.read(self.request("GET", path, params=params), kind)

    def pages(self, path: str, kind: type[Result], params: Mapping[str, Any] | None = None) -> Iterator[Result]:
        """Every item of a list, fetching the next page when it is reached."""
        query = {name: value for name, value in (params or {}).items() if value is not None}
        while True:
            page = self.get(path, AnswerPage, query)
            for item in page.items:
                yield self.parse(item, kind)
            if page.next_cursor is None:
                return
            query = {**query, "cursor": page.next_cursor}

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        retry: bool = True,
    ) -> httpx2.Response:
        """The answer; raises the typed error of any other status than success. `retry`: the request may be repeated."""

        def send() -> httpx2.Response:
            return self.check(self._http.request(method, path, json=json, params=params, headers=headers))

        return self.with_retries(send, retry=retry)

    def send(
        self,
        method: str,
        path: str,
        content: Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> httpx2.Response:
        """The answer to a body that is sent as it is generated; one attempt. Raises as `check` does."""
        timeout = TIMEOUT if timeout_seconds is None else httpx2.Timeout(timeout_seconds, connect=TIMEOUT.connect)
        return self.check(self._http.request(method, path, content=content, headers=headers, timeout=timeout))

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx2.Response]:
        """An answer whose body is read as it comes; one attempt."""
        with self._http.stream("GET", path, headers=headers) as response:
            yield self.check(response)

    @contextmanager
    def server_sent_events(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx2.EventSource]:
        """A stream of server-sent events; one attempt."""
        with self._http.sse(path, headers=headers) as source:
            self.check(source.response)
            yield source

    def with_retries(self, send: Callable[[], Outcome], *, retry: bool = True) -> Outcome:
        """Send a request, and again after a pause while the service cannot be reached or is busy."""
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS or not retry
            try:
                return send()
            except httpx2.TransportError as error:
                if last:
                    raise UnreachableError(unreachable(self.url, error)) from error
                pause = pause_seconds(attempt)
            except ServiceBusy as busy:
                if last or busy.retry_after_seconds > LONGEST_PAUSE_SECONDS:
                    raise error_for(busy.problem) from None
                pause = max(pause_seconds(attempt), busy.retry_after_seconds)
            time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
        raise AssertionError("the last attempt returns or raises")

    def check(self, response: httpx2.Response) -> httpx2.Response:
        """Return a successful answer; raises ServiceBusy for a transient status, else the typed error."""
        if response.is_success:
            return response
        response.read()
        problem = self._problem(response)
        if response.status_code in TRANSIENT:
            raise ServiceBusy(problem, _retry_after(response))
        raise error_for(problem)

    def read(self, response: httpx2.Response, kind: type[Result]) -> Result:
        return self.parse(self.json(response), kind)

    def parse(self, body: Any, kind: type[Result]) -> Result:
        try:
            return kind.model_validate(body)
        except ValidationError as error:
            raise UnexpectedAnswerError(
                f"{self.url} answered with something that is not a {kind.__name__}: {error}"
            ) from None

    def json(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise UnexpectedAnswerError(
                f"{self.url} answered with something that is not JSON; check that it is a Retort service"
            ) from None

    def _problem(self, response: httpx2.Response) -> ErrorInfo:
        try:
            return ErrorInfo.model_validate(response.json())
        except ValueError:
            return ErrorInfo(
                status=response.status_code,
                detail=f"{self.url} answered {response.status_code} {response.reason_phrase}".rstrip(),
            )


def path(*parts: str) -> str:
    """The path of a resource; a quoted part cannot leave its place in it."""
    return "/".join(("/v1", *(quote(part, safe="") for part in parts)))


class ServiceBusy(Exception):
    """The service cannot answer now, but may later."""

    def __init__(self, problem: ErrorInfo, retry_after_seconds: float) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.retry_after_seconds = retry_after_seconds


def authorities(url: str) -> ssl.SSLContext:
    """The certificate authorities that are trusted for that address: for http none, since reading the machine's takes a
    tenth of a command's time."""
    tls = httpx2.URL(url).scheme == "https"
    return httpx2.create_ssl_context() if tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def check_url(url: str) -> None:
    """Raise UnreachableError unless it is an address of http or https."""
    wanted = "wanted one like http://127.0.0.1:8765"
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise UnreachableError(f"the service's address {url!r} is not a URL ({error}); {wanted}") from None
    if found.scheme not in ("http", "https") or not found.host:
        raise UnreachableError(f"the service's address is {url!r}; {wanted}")


def read_embedded_key(url: str) -> str | None:
    """The key in the embedded service's data directory; None for another machine, to which it is never sent."""
    if urlsplit(url).hostname not in LOOPBACK:
        return None
    directory = Path(os.environ.get("RETORT_DATA_DIR") or Path.home() / ".retort")
    try:
        return (directory / "key").read_text().strip() or None
    except OSError:
        return None


def unreachable(url: str, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    return f"no service answers at {url} ({reason}); check the address, or start one with `retort up` (retort[worker])"


def pause_seconds(attempt: int) -> float:
    """Pause after an attempt: doubles each time; jitter keeps many clients from asking in step."""
    return FIRST_PAUSE_SECONDS * float(2 ** (attempt - 1)) * random.uniform(0.75, 1.25)


def _retry_after(response: httpx2.Response) -> float:
    value = str(response.headers.get("Retry-After", ""))
    return float(value) if value.isdecimal() else 0.0  # it may also be a date, which our service does not send
