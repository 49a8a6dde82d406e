"""How long it takes to bring a file to the service, beside a bare endpoint that writes the same body to a file.

    .venv/bin/python benchmarks/uploads.py [--mebibytes 256] [--rounds 5]

Over loopback, in turns within one run. The service is as `retort up` starts it (SQLite); the file goes there as the
client sends it: hashed, in parts of 8 MiB, four at once, each verified, written into the database, the whole read back
and verified again. The bare endpoint is Starlette under uvicorn, which takes one request and writes what comes to a
file, without a digest. No two rounds bring the same bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
from _paced import machine

from retort.client import Retort
from worker.commands.embedded import embedded_service

MIB = 1 << 20
BARE = """
import sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

async def take(request):
    with open(sys.argv[2], "wb") as file:
        async for piece in request.stream():
            file.write(piece)
    return Response()

app = Starlette(routes=[Route("/", take, methods=["PUT"])])
uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", log_config=None, access_log=False)
"""


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mebibytes", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    where = machine()
    rows = []
    with tempfile.TemporaryDirectory(prefix="retort-uploads-") as name:
        folder = Path(name)
        with embedded_service(folder) as (url, key), Retort(url, key) as client:
            bare = start_bare(folder)
            try:
                for number in range(options.rounds):
                    file = folder / f"file-{number}"
                    write(file, options.mebibytes)
                    rows.append(one_round(client, bare.args[-2], file))  # type: ignore[index]
                    file.unlink()
            finally:
                bare.terminate()
                bare.wait(20)
    for uploaded, written in rows:
        print(f"{uploaded:6.2f} s beside {written:6.2f} s: {uploaded / written:5.1f} times")
    ratio = statistics.median(uploaded / written for uploaded, written in rows)
    pace = statistics.median(options.mebibytes / uploaded for uploaded, _ in rows)
    print(f"an upload takes {ratio:.1f} times as long as the bare body, {pace:.0f} MiB/s")
    figures = {"over_bare": round(ratio, 2), "mebibytes_per_second": round(pace, 1), "mebibytes": options.mebibytes}
    print(json.dumps(figures | {"rounds": options.rounds} | where))


def one_round(client: Retort, port: str, file: Path) -> tuple[float, float]:
    """Seconds of an upload, and of the same body sent to the bare endpoint."""
    began = time.perf_counter()
    done = client.uploads.upload(file, kind="dataset")
    uploaded = time.perf_counter() - began
    client.uploads.delete(done.id)
    headers = {"Content-Length": str(file.stat().st_size)}
    began = time.perf_counter()
    httpx2.put(f"http://127.0.0.1:{port}/", content=blocks(file), headers=headers, timeout=300).raise_for_status()
    return uploaded, time.perf_counter() - began


def blocks(file: Path) -> Iterator[bytes]:
    """The file's bytes, as large a piece at a time as the client sends."""
    with file.open("rb") as source:
        while block := source.read(1 << 18):
            yield block


def write(file: Path, mebibytes: int) -> None:
    """So many MiB that nobody has seen before."""
    with file.open("wb") as out:
        for _ in range(mebibytes):
            out.write(os.urandom(MIB))


def start_bare(folder: Path) -> subprocess.Popen[bytes]:
    """The bare endpoint, ready; its port is the last argument but one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", BARE, str(port), str(folder / "body")])
    while process.poll() is None:
        try:
            httpx2.get(f"http://127.0.0.1:{port}/")
            return process
        except httpx2.TransportError:
            time.sleep(0.1)
    raise SystemExit("the bare endpoint did not start")


if __name__ == "__main__":
    main()
