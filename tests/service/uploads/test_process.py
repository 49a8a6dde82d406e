"""Uploads to a real process: senders that are slow, that leave, and that speak no HTTP."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any
from urllib.parse import urlsplit

import httpx2
from starlette.testclient import TestClient

from service.blobs.models import BlobRow, ChunkRow
from tests.conftest import wait_until
from tests.service.conftest import Server, on_sqlite
from tests.service.uploads.conftest import CONTENT, MIB, begin, complete, count, digest, part, put, sha256, stored

Start = Callable[..., Server]


def head(server: Server, key: str, upload: dict[str, Any], number: int, **headers: object) -> bytes:
    """The head of a request that brings a part."""
    sent = part(upload, number)
    lines = {
        "Host": urlsplit(server.url).netloc, "Authorization": f"Bearer {key}", "Content-Length": len(sent),
        **digest(sent), **{name.replace("_", "-"): value for name, value in headers.items()},
    }  # fmt: skip
    said = [f"{name}: {value}" for name, value in lines.items() if value is not None]
    return "\r\n".join([f"PUT /v1/uploads/{upload['id']}/parts/{number} HTTP/1.1", *said, "", ""]).encode()


def connect(server: Server) -> socket.socket:
    address = urlsplit(server.url)
    return socket.create_connection((str(address.hostname), int(address.port or 0)), 20)


def test_slow_senders_hold_no_connection_and_no_thread(start: Start, client: TestClient, key: str) -> None:
    server, upload = start(), begin(client)
    before = server.memory_mib()
    with ExitStack() as stack:
        slow = [stack.enter_context(closing(connect(server))) for _ in range(60)]
        for sender in slow:  # more than the process has threads and connections; each a MiB and some more
            sender.sendall(head(server, key, upload, 1) + CONTENT[: MIB + 1000])
        wait_until(lambda: count(ChunkRow) >= 60, "each first MiB is written", 60)
        began = time.monotonic()
        assert httpx2.get(f"{server.url}/v1/jobs", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        with httpx2.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as quick:
            for number in (1, 2, 3):
                assert put(quick, upload, number).status_code == 200  # type: ignore[arg-type]
            assert complete(quick, upload).status_code == 200  # type: ignore[arg-type]
        assert time.monotonic() - began < 15
        assert server.memory_mib("VmHWM") - before < 60 + 60 * 2
    # They left: what they had sent goes, and what was complete stays.
    wait_until(lambda: count(BlobRow) == 1, "their drafts go", 60)
    assert stored(sha256(CONTENT)) == CONTENT


@on_sqlite
def test_a_connection_that_breaks_within_a_part_leaves_nothing(start: Start, client: TestClient, key: str) -> None:
    server, upload = start(), begin(client)
    with closing(connect(server)) as sender:
        sender.sendall(head(server, key, upload, 1) + CONTENT[: MIB + 1000])
        wait_until(lambda: count(ChunkRow) == 1, "the first MiB is written")
    wait_until(lambda: count(BlobRow) == 1, "the draft goes")
    assert client.get(f"/v1/uploads/{upload['id']}").json()["received"] == []
    wait_until(lambda: '"status": 400' in server.log.read_text(), "the request's line is written")
    assert "Traceback" not in server.log.read_text()


@on_sqlite
def test_what_can_be_refused_by_its_head_is_refused_before_the_body_is_sent(
    start: Start, client: TestClient, key: str
) -> None:
    server, upload = start(), begin(client)
    for number, headers, status in (
        (1, {}, b"100"), (1, {"Content_Digest": None}, b"422"), (2, {"Authorization": "Bearer x"}, b"401"),
        (1, {"Content_Length": 5}, b"422"),
    ):  # fmt: skip
        with closing(connect(server)) as sender:
            sender.sendall(head(server, key, upload, number, Expect="100-continue", **headers))
            assert sender.recv(100).startswith(b"HTTP/1.1 " + status), headers


@on_sqlite
def test_a_length_that_is_none(start: Start, client: TestClient, key: str) -> None:
    server, upload = start(), begin(client)
    for length in ("-5", "x", "1e3", "5, 6", "٣"):
        with closing(connect(server)) as sender:
            wrong = head(server, key, upload, 1, Content_Length=length)
            sender.sendall(wrong.decode().encode("latin-1", "replace"))
            assert sender.recv(100).startswith(b"HTTP/1.1 4"), length
    assert put(client, upload, 1).status_code == 200
