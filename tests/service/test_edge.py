"""The edge: the headers of every answer, the names it answers to, slow senders, and secrets that stay secret."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from pydantic_settings import SettingsError
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.server import ServerState

from service import wire
from service.app import create_app
from service.settings import get_settings
from service.wire import BoundedProtocol
from tests.service.conftest import Server, bearing

Start = Callable[..., Server]
Environment = Callable[..., None]


@pytest.fixture
def database_url(sqlite_database: str) -> str:
    """What is shown here depends on no kind of database."""
    return sqlite_database


def test_every_answer_has_the_headers_for_browsers(client: TestClient) -> None:
    for path in ("/v1/jobs", "/v1/nothing", "/healthz", "/v1/jobs/%00"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers
    policy = client.get("/docs").headers["Content-Security-Policy"]
    page = client.get("/docs").text
    loaded = {part.split('"')[0] for part in page.split('src="')[1:] + page.split('href="')[1:]}
    assert loaded
    assert all(f"{urlsplit(url).scheme}://{urlsplit(url).netloc}" in policy for url in loaded)


def test_pages_of_other_origins_are_let_in_by_name_alone(client: TestClient, environment: Environment) -> None:
    asks = {
        "Origin": "https://app.example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    assert "Access-Control-Allow-Origin" not in client.options("/v1/jobs", headers=asks).headers
    environment(database_url=get_settings().database, cors_origins="https://app.example.org, https://other.example.org")
    with TestClient(create_app()) as opened:
        asked = opened.options("/v1/jobs", headers=asks)
        assert (asked.status_code, asked.headers["Access-Control-Allow-Origin"]) == (200, "https://app.example.org")
        refused = opened.get("/v1/jobs", headers={"Origin": "https://app.example.org"})
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://app.example.org")
        evil = opened.get("/v1/jobs", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in evil.headers


@pytest.mark.parametrize(
    ("names", "host", "status"),
    [
        ("", "anything.example", 200),
        ("retort.example", "retort.example", 200),
        ("retort.example", "RETORT.example:8443", 200),
        ("retort.example, *.example.org", "a.b.example.org", 200),
        ("*.example.org", "example.org", 400),
        ("*.example.org", "evilexample.org", 400),
        ("retort.example", "retort.example.evil", 400),
        ("retort.example", "[::1", 400),
        ("*", "anything.example", 200),
    ],
)
def test_a_service_answers_to_its_names(
    environment: Environment, database: str, names: str, host: str, status: int
) -> None:
    environment(database_url=database, allowed_hosts=names)
    with TestClient(create_app()) as client:
        answer = client.get("/healthz", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["detail"] == (
            f"the request is for {host!r}, which is not among the names of this service (RETORT_ALLOWED_HOSTS)"
        )


def test_on_loopback_a_service_answers_to_this_machines_names_alone(start: Start) -> None:
    server = start()
    for host, status in {"localhost:1": 200, "127.0.0.1": 200, "[::1]:80": 200, "rebound.example": 400}.items():
        assert httpx2.get(f"{server.url}/healthz", headers={"Host": host}).status_code == status


# Slow senders


def send_slowly(server: Server, head: bytes, seconds: float) -> tuple[bytes, float]:
    """Send the head at once and then, if there was one, a byte every tenth of a second; what came back, and when the
    connection ended."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        began = time.monotonic()
        connection.sendall(head)
        connection.settimeout(0.1)
        answer = b""
        while time.monotonic() - began < seconds:
            try:
                piece = connection.recv(65536)
                if not piece:
                    break
                answer += piece
            except TimeoutError:
                pass
            except ConnectionResetError:
                break
            try:
                connection.send(b"x" if head else b"")
            except (BrokenPipeError, ConnectionResetError):
                break
        return answer, time.monotonic() - began


def test_slow_senders_are_not_waited_for(start: Start, key: str) -> None:
    server = start(patience_seconds=1)
    bearer = f"Authorization: Bearer {key}\r\n".encode()
    post = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    heads = {
        "no head": b"",
        "half a head": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Slow: ",
        "a body": post + bearer + b"\r\n",
        "a body after the answer": post + b"\r\n",
        "a second head": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nX-Slow: ",
    }
    answers = {name: send_slowly(server, head, 6) for name, head in heads.items()}
    assert {name: seconds for name, (_, seconds) in answers.items() if not 0.9 <= seconds <= 3} == {}
    assert answers["no head"][0] == answers["half a head"][0] == b""
    assert answers["a body"][0].startswith(b"HTTP/1.1 408 ")
    assert b"bytes of the body came in 1 s; no more is waited for" in answers["a body"][0]
    assert answers["a body after the answer"][0].startswith(b"HTTP/1.1 401 ")
    assert answers["a second head"][0].startswith(b"HTTP/1.1 200 ")
    assert httpx2.get(f"{server.url}/healthz").is_success


# Heads, trailers, and all that is no body

HEAD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n"
MEGABYTE = b"y" * 1_000_000


def answer_to(server: Server, *pieces: bytes) -> bytes:
    """All that comes back until the connection ends."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
        except OSError:
            pass  # it is closed with the answer
        answer = b""
        try:
            while piece := connection.recv(65536):
                answer += piece
        except ConnectionResetError:
            pass
        return answer


def test_no_part_of_a_request_is_without_a_bound(start: Start, key: str) -> None:
    server = start(patience_seconds=5)
    memory = server.memory_mib()
    bearer = f"Authorization: Bearer {key}\r\n".encode()
    close = b"Connection: close\r\n\r\n"
    cases: dict[str, tuple[int, tuple[bytes, ...]]] = {
        "fields without end": (431, (HEAD, *[b"a:b\r\n" * 200_000] * 30)),
        "a field without end": (431, (HEAD + b"X: ", *[MEGABYTE] * 30)),
        "a name without end": (431, (HEAD, *[MEGABYTE] * 30)),
        "201 fields": (431, (HEAD + b"x:1\r\n" * 200 + b"\r\n",)),
        "200 fields": (200, (HEAD + b"x:1\r\n" * 198 + close,)),
        "70 kB": (431, (HEAD + b"X: " + MEGABYTE[:70_000] + b"\r\n\r\n",)),
        "60 kB": (200, (HEAD + b"Cookie: " + MEGABYTE[:60_000] + b"\r\n" + close,)),
        "a long key": (
            401,
            (b"GET /v1/jobs" + HEAD[12:] + b"Authorization: Bearer " + MEGABYTE[:60_000] + b"\r\n" + close,),
        ),
        "a long path": (414, (b"GET /" + MEGABYTE[:9000] + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",)),
        "a query without end": (414, (b"GET /v1/jobs?", *[b"a&" * 500_000] * 20)),
        "a method without end": (400, (MEGABYTE,)),
        "empty lines": (431, (b"\r\n" * 500_000,)),
        "an extension of a chunk": (431, (CHUNKED + bearer + b"\r\n1;", *[MEGABYTE] * 20)),
        "trailers": (431, (CHUNKED + bearer + b"\r\n1\r\n{\r\n0\r\n", *[b"a:b\r\n" * 200_000] * 20)),
        "a trailer": (431, (CHUNKED + bearer + b"\r\n1\r\n{\r\n0\r\nX: ", *[MEGABYTE] * 20)),
        "another protocol": (200, (HEAD + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", *[MEGABYTE] * 5)),
        "a form": (415, (POST.replace(b"application/json", b"multipart/form-data") + bearer + close,)),
    }
    found = {name: answer_to(server, *pieces) for name, (_, pieces) in cases.items()}
    wrong = {
        name: found[name][:60] for name, (status, _) in cases.items() if f" {status} ".encode() not in found[name][:14]
    }
    assert wrong == {}
    assert server.memory_mib() < memory + 30
    head, _, body = found["fields without end"].partition(b"\r\n\r\n")
    problem = json.loads(body)
    assert problem["detail"].startswith("the request's head has more than 200 fields, or more than 65,536 bytes in all")
    assert (problem["status"], problem["type"]) == (431, "urn:retort:problem:request-header-fields-too-large")
    assert f"X-Request-ID: {problem['request_id']}".encode() in head
    assert b"X-Frame-Options: DENY" in head


def test_requests_that_others_may_read_otherwise_are_refused(start: Start, key: str) -> None:
    server = start(patience_seconds=5)
    bearer = f"Authorization: Bearer {key}\r\n".encode()
    cases = {
        "two hosts": HEAD + b"Host: localhost\r\n",
        "no host": b"GET /healthz HTTP/1.1\r\n",
        "two keys": HEAD + bearer * 2,
        "two lengths": POST + b"Content-Length: 2\r\n" * 2,
        "a list of lengths": POST + b"Content-Length: 2, 2\r\n",
        "a signed length": POST + b"Content-Length: +2\r\n",
        "length and coding": CHUNKED + b"Content-Length: 2\r\n",
        "coding and length": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n",
        "two codings": CHUNKED + b"Transfer-Encoding: chunked\r\n",
        "a folded field": HEAD + b"X: a\r\n b\r\n",
        "a space before the colon": HEAD + b"X : a\r\n",
        "a NUL": HEAD + b"X: a\0b\r\n",
        "another version": b"GET /healthz HTTP/3.7\r\nHost: localhost\r\n",
    }
    ended = b"Connection: close\r\n\r\n0\r\n\r\n"
    answers = {name: answer_to(server, head + ended) for name, head in cases.items()}
    assert {name: answer[:60] for name, answer in answers.items() if not answer.startswith(b"HTTP/1.1 400 ")} == {}
    assert {name for name, answer in answers.items() if b"application/problem+json" not in answer} == set()
    # A trailer's fields do not join the head's.
    smuggled = answer_to(server, CHUNKED + b"Connection: close\r\n\r\n2\r\n{}\r\n0\r\n" + bearer + b"\r\n")
    assert smuggled.startswith(b"HTTP/1.1 401 ")


def test_a_caller_who_leaves_within_the_body_is_no_failure(
    client: TestClient, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Message] = []
    pieces: list[Message] = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    headers = [(b"host", b"testserver"), (b"authorization", f"Bearer {key}".encode())]
    scope = {
        **{"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"},
        **{"path": "/v1/jobs/validate", "raw_path": b"/v1/jobs/validate", "query_string": b"", "root_path": ""},
        **{"headers": [*headers, (b"content-type", b"application/json")], "client": ("testclient", 1), "state": {}},
    }

    async def receive() -> Message:
        return pieces.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(client.app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert [entry for entry in caplog.records if entry.levelname == "ERROR"] == []


def test_a_caller_who_does_not_read_its_answer_is_left(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(patience_seconds=0.1)
    monkeypatch.setattr(wire, "SLOWEST_BYTES_PER_SECOND", 1e9)
    ended: list[str] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(100):
            await send({"type": "http.response.body", "body": MEGABYTE, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.append("left")

    async def serve() -> None:
        loop, config = asyncio.get_running_loop(), Config(answer, log_config=None, lifespan="off")
        config.load()

        def protocol() -> BoundedProtocol:
            return BoundedProtocol(config=config, server_state=ServerState(), app_state={})

        server = await loop.create_server(protocol, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as connection:
            connection.sendall(HEAD + b"\r\n")
            async with asyncio.timeout(60):
                while not ended:
                    await asyncio.sleep(0.01)
        server.close()

    asyncio.run(serve())


def test_pipelined_requests_are_answered_in_order_and_not_without_end(start: Start) -> None:
    server = start(patience_seconds=5)
    last = HEAD + b"Connection: close\r\n\r\n"
    assert answer_to(server, (HEAD + b"\r\n") * 11 + last).count(b"HTTP/1.1 200 ") == 12
    assert answer_to(server, *[(HEAD + b"\r\n") * 20_000] * 5).count(b"HTTP/1.1 200 ") < 20_000
    assert httpx2.get(f"{server.url}/healthz").is_success


def test_a_follower_is_not_taken_for_a_slow_sender(start: Start, key: str, recipe: dict[str, object]) -> None:
    server = start(patience_seconds=0.5)
    with httpx2.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}) as client:
        job = client.post("/v1/jobs", json=recipe).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as events:
            lines = events.iter_lines()
            assert next(lines).startswith(("id:", "event:"))
            time.sleep(2)
            httpx2.post(f"{server.url}/v1/jobs/{job}/cancel", headers=client.headers)
            assert any("cancelled" in line for line in lines)


# Secrets


def test_a_key_in_a_wrong_place_is_not_repeated(client: TestClient, key: str, caplog: pytest.LogCaptureFixture) -> None:
    secret = key[12:]
    answers = [
        client.get(f"/v1/jobs/{key}"),
        client.get(f"/{key}"),
        client.get("/v1/jobs", params={"cursor": key}),
        client.get("/v1/jobs", params={key: "x"}),
        client.get("/v1/jobs", params={"state": key}),
        client.get("/v1/methods/" + key),
        client.delete(f"/v1/keys/{'x' * 40}{key}"),
        client.delete(f"/v1/keys/x-{key}"),
        client.post("/v1/keys", json={"name": "k", "project": key}),
        client.post("/v1/keys", json={"name": "k", key: "x"}),
        client.post("/v1/jobs", json={"dataset": {"name": key}}),
        client.post("/v1/jobs", content=b"{", headers={"Content-Type": key}),
        client.get("/v1/jobs", headers={"Authorization": f"Basic {key}"}),
        client.get("/v1/jobs", headers={"Authorization": f"Bearer {key}x"}),
    ]
    assert {answer.status_code for answer in answers} <= {401, 404, 415, 422}
    assert not [answer.text for answer in answers if secret[:20] in answer.text]
    assert "_***" in answers[0].text


def test_a_password_is_not_shown_when_the_database_is_down(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    environment(database_url="postgresql+psycopg://retort:hunter2@127.0.0.1:1/none")
    client = bearing("rt_aaaaaaaa_" + "a" * 32)
    answers = [client.get(path) for path in ("/v1/jobs", "/readyz", "/metrics")]
    assert [answer.status_code for answer in answers] == [503, 503, 200]
    assert "hunter2" not in "".join(answer.text for answer in answers)
    assert "hunter2" not in caplog.text


def test_secrets_may_stand_in_files(environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "retort_database_url").write_text("postgresql+psycopg://retort:hunter2@database/retort\n")
    monkeypatch.setenv("RETORT_SECRETS_DIR", str(tmp_path))
    environment()
    assert get_settings().database == "postgresql+psycopg://retort:hunter2@database/retort"
    assert "hunter2" not in repr(get_settings())
    environment(database_url="sqlite:///stands/over/it.db")
    assert get_settings().database == "sqlite:///stands/over/it.db"
    environment(secrets_dir=tmp_path / "none")
    with pytest.raises(SettingsError, match="wanted a folder"):
        get_settings()
