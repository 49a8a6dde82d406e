"""The edge: what every answer says, who may ask by which name, slow senders, and secrets that stay secret."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from pydantic_settings import SettingsError
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import get_settings
from tests.service.conftest import Server, bearing

Start = Callable[..., Server]
Environment = Callable[..., None]


@pytest.fixture
def database_url(sqlite_database: str) -> str:
    """What is shown here depends on no kind of database."""
    return sqlite_database


def test_every_answer_tells_browsers_to_be_careful(client: TestClient) -> None:
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


def test_who_follows_is_not_taken_for_slow(start: Start, key: str, recipe: dict[str, object]) -> None:
    server = start(patience_seconds=0.5)
    with httpx2.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}) as client:
        job = client.post("/v1/jobs", json=recipe).json()["id"]
        with client.stream("GET", f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"}) as event_log:
            lines = event_log.iter_lines()
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


def test_a_password_is_not_told_when_the_database_is_down(
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
    with pytest.raises(SettingsError, match="which is no folder"):
        get_settings()
