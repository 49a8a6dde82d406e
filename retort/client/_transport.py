"""Requests, asked again where that does no harm, and answers as types or typed errors."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from retort.client._types import Page
from retort.client.errors import ConnectionFailed, ProblemDetails, UnexpectedAnswer, error_for

DEFAULT_URL = "http://127.0.0.1:8765"
TIMEOUT = httpx2.Timeout(30.0, connect=5.0)
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
TRANSIENT = frozenset({429, 502, 503, 504})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

Result = TypeVar("Result", bound=BaseModel)
Asked = TypeVar("Asked")


class Transport:
    """One service, one key."""

    def __init__(self, url: str | None = None, key: str | None = None) -> None:
        self.url = (url or os.environ.get("RETORT_URL") or DEFAULT_URL).rstrip("/")
        check_url(self.url)
        key = key or os.environ.get("RETORT_KEY") or embedded_key(self.url)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx2.Client(base_url=self.url, timeout=TIMEOUT, headers=headers)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, kind: type[Result], params: Mapping[str, Any] | None = None) -> Result:
        return self.read(self.request("GET", path, params=params), kind)

    def pages(self, path: str, kind: type[Result], params: Mapping[str, Any] | None = None) -> Iterator[Result]:
        """Every item of a list, fetching the next page when it is reached."""
        asked = {name: value for name, value in (params or {}).items() if value is not None}
        while True:
            page = self.get(path, Page, asked)
            for item in page.items:
                yield self.parse(item, kind)
            if page.next_cursor is None:
                return
            asked = {**asked, "cursor": page.next_cursor}

    def request(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        again: bool = True,
    ) -> httpx2.Response:
        """The answer; raises the typed error of one that is no success. `again`: asking twice does no harm."""

        def ask() -> httpx2.Response:
            response = self._http.request(method, path, json=json, params=params, headers=headers)
            return self.checked(response)

        return self.patiently(ask, again=again)

    def send(
        self,
        method: str,
        path: str,
        content: Iterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> httpx2.Response:
        """The answer to a body that is sent as it is made; asked for once. Raises what `checked` does."""
        timeout = TIMEOUT if timeout_seconds is None else httpx2.Timeout(timeout_seconds, connect=TIMEOUT.connect)
        return self.checked(self._http.request(method, path, content=content, headers=headers, timeout=timeout))

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx2.Response]:
        """An answer whose body is read as it comes; asked for once."""
        with self._http.stream("GET", path, headers=headers) as response:
            yield self.checked(response)

    @contextmanager
    def server_sent_events(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx2.EventSource]:
        with self._http.sse(path, headers=headers) as source:
            self.checked(source.response)
            yield source

    def patiently(self, ask: Callable[[], Asked], *, again: bool = True) -> Asked:
        """Ask, and ask again after a pause while the service cannot be reached or says that it is busy."""
        for attempt in range(1, ATTEMPTS + 1):
            last = attempt == ATTEMPTS or not again
            try:
                return ask()
            except httpx2.TransportError as error:
                if last:
                    raise ConnectionFailed(unreachable(self.url, error)) from error
                pause = pause_seconds(attempt)
            except Busy as busy:
                if last or busy.wanted_seconds > LONGEST_PAUSE_SECONDS:
                    raise error_for(busy.problem) from None
                pause = max(pause_seconds(attempt), busy.wanted_seconds)
            time.sleep(min(pause, LONGEST_PAUSE_SECONDS))
        raise AssertionError("the last attempt returns or raises")

    def checked(self, response: httpx2.Response) -> httpx2.Response:
        """The same answer if it is a success; raises Busy for one that may be asked again, or the typed error."""
        if response.is_success:
            return response
        response.read()
        problem = self._problem(response)
        if response.status_code in TRANSIENT:
            raise Busy(problem, _retry_after(response))
        raise error_for(problem)

    def read(self, response: httpx2.Response, kind: type[Result]) -> Result:
        return self.parse(self.json(response), kind)

    def parse(self, body: Any, kind: type[Result]) -> Result:
        try:
            return kind.model_validate(body)
        except ValidationError as error:
            raise UnexpectedAnswer(f"{self.url} answered with something that is no {kind.__name__}: {error}") from None

    def json(self, response: httpx2.Response) -> Any:
        try:
            return response.json()
        except ValueError:
            raise UnexpectedAnswer(f"{self.url} answered with something that is not JSON; is it Retort?") from None

    def _problem(self, response: httpx2.Response) -> ProblemDetails:
        try:
            return ProblemDetails.model_validate(response.json())
        except ValueError:
            return ProblemDetails(
                status=response.status_code,
                detail=f"{self.url} answered {response.status_code} {response.reason_phrase}".rstrip(),
            )


def path(*parts: str) -> str:
    """The path of a resource; what a user gave cannot leave its place in it."""
    return "/".join(("/v1", *(quote(part, safe="") for part in parts)))


class Busy(Exception):
    """The service cannot answer now, but may later."""

    def __init__(self, problem: ProblemDetails, wanted_seconds: float) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.wanted_seconds = wanted_seconds


def check_url(url: str) -> None:
    """Raise ConnectionFailed unless that is an address to talk HTTP to."""
    wanted = "wanted one like http://127.0.0.1:8765"
    try:
        found = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ConnectionFailed(f"the service's address {url!r} is no URL ({error}); {wanted}") from None
    if found.scheme not in ("http", "https") or not found.host:
        raise ConnectionFailed(f"the service's address is {url!r}; {wanted}")


def embedded_key(url: str) -> str | None:
    """The key that the embedded service left in its data directory; never sent to another machine."""
    if urlsplit(url).hostname not in LOOPBACK:
        return None
    directory = Path(os.environ.get("RETORT_DATA_DIR") or Path.home() / ".retort")
    try:
        return (directory / "key").read_text().strip() or None
    except OSError:
        return None


def unreachable(url: str, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    return f"no service answers at {url} ({reason}); `retort up` starts one here"


def pause_seconds(attempt: int) -> float:
    """Doubles with every attempt; jitter keeps many clients from asking in step."""
    return FIRST_PAUSE_SECONDS * float(2 ** (attempt - 1)) * random.uniform(0.75, 1.25)


def _retry_after(response: httpx2.Response) -> float:
    said = str(response.headers.get("Retry-After", ""))
    return float(said) if said.isdecimal() else 0.0  # it may also be a date, which our service does not send
