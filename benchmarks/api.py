"""The front end's answers against bare FastAPI with SQLAlchemy, and against MLflow's tracking server.

    .venv/bin/python benchmarks/api.py [--rounds 9] [--requests 60] [--mib 256] [--without-peer]

All run over one private PostgreSQL, one process each, on uvloop: with the asyncio loop and several workers uvicorn
leaves TCP_NODELAY off, and every answer on a connection that is kept takes 40 ms. They take turns within a round; the
figures are medians over the rounds of the ratio within a round.

- `retort`: POST /v1/jobs, GET /v1/jobs/{id}, GET /v1/jobs?limit=20, each with a key; the jobs stay queued.
- `bare`: one statement a request on a table of two columns, and nothing else; the same body as a recipe.
- `peer`: MLflow's runs/create, runs/get and runs/search with as many results, which knows no keys.

`of_bare`: the share of the bare endpoint's speed with one client. `over_peer`: how many times as fast as the peer with
16 clients. `download`: the share of the speed of starlette's FileResponse at which an artifact of `--mib` leaves the
database's chunks, and by how much the process's memory grew meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from _paced import machine
from _servers import Server, front_end, postgresql, prepare, serving

from service.artifacts.repository import add_artifact
from service.blobs.repository import commit_blob, write_blob
from service.db import transaction

PEER = "mlflow==3.17.2"
PEER_FOLDER = Path(__file__).parent.parent / ".bench" / PEER
CLIENTS = 16
LISTED = 20
PIECE_BYTES = 1 << 20
RECIPE = {
    "name": "bench",
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet20", "teach": {"epochs": 2}},
    "student": {"architecture": "resnet8"},
    "methods": [{"name": "kd"}],
    "training": {"epochs": 2},
}
Request = tuple[str, str, Any]
"""Method, address, body."""


@dataclass(frozen=True)
class Program:
    """A server and how it is asked to create, read and list."""

    server: Server
    create: Request
    read: Callable[[Any], Request]
    """How to read what the answer to `create` tells of."""
    list: Request
    headers: Mapping[str, str]

    def requests(self) -> dict[str, Request]:
        """One of each kind."""
        made = json.loads(Client(self)(self.create))
        return {"create": self.create, "read": self.read(made), "list": self.list}


class Client:
    """One connection that is kept."""

    def __init__(self, program: Program) -> None:
        self._connection = HTTPConnection("127.0.0.1", program.server.port, timeout=60)
        self._headers = {**program.headers, "Content-Type": "application/json"}

    def reconnect(self) -> None:
        """Connect anew: while others had their turns, the server may have ended a connection that was silent."""
        self._connection.close()
        self._connection.connect()

    def __call__(self, request: Request) -> bytes:
        method, address, body = request
        self._connection.request(method, address, None if body is None else json.dumps(body), self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.status not in (200, 201):
            raise SystemExit(f"{method} {address}: {answer.status} {content!r}")
        return content


def seconds_each(clients: list[Client], request: Request, count: int) -> tuple[float, float]:
    """Seconds a request when all clients ask at once, that often together, and the median of what a client waited."""
    waits: list[float] = []
    for client in clients:
        client.reconnect()

    def ask(client: Client) -> None:
        for _ in range(count // len(clients)):
            began = time.perf_counter()
            client(request)
            waits.append(time.perf_counter() - began)

    began = time.perf_counter()
    with ThreadPoolExecutor(len(clients)) as pool:
        list(pool.map(ask, clients))
    return (time.perf_counter() - began) / len(waits), statistics.median(waits)


def compare(programs: Mapping[str, Program], clients: int, rounds: int, count: int) -> list[dict[str, float]]:
    """Seconds a request in each round by kind and program (`create retort`), and its wait (`create retort wait`)."""
    asked = {name: program.requests() for name, program in programs.items()}
    kept = {name: [Client(program) for _ in range(clients)] for name, program in programs.items()}
    rows = []
    for number in range(rounds + 1):
        row = {}
        for kind in ("create", "read", "list"):
            for name in programs:
                row[f"{kind} {name}"], row[f"{kind} {name} wait"] = seconds_each(
                    kept[name], asked[name][kind], max(count, clients)
                )
        if number:  # the first round warms everything up
            rows.append(row)
    return rows


def ratio(rows: list[dict[str, float]], above: str, below: str) -> float:
    """Median over the rounds."""
    return round(statistics.median(row[above] / row[below] for row in rows), 3)


def store_artifact(program: Program, file: Path) -> str:
    """Put a file into the database as a job's artifact; its address."""
    job_id = json.loads(Client(program)(program.create))["id"]
    with file.open("rb") as content:
        written = write_blob(content)
    with transaction() as session:
        blob_id = commit_blob(session, written)
        add_artifact(session, job_id, name="large.bin", network=None, media_type="application/x", blob_id=blob_id)
    return f"/v1/jobs/{job_id}/artifacts/large.bin"


def download_seconds(program: Program, address: str, size: int) -> float:
    """How long a whole file takes."""
    connection = HTTPConnection("127.0.0.1", program.server.port, timeout=600)
    began = time.perf_counter()
    connection.request("GET", address, headers=dict(program.headers))
    answer = connection.getresponse()
    found = 0
    while piece := answer.read(PIECE_BYTES):
        found += len(piece)
    if (answer.status, found) != (200, size):
        raise SystemExit(f"GET {address}: {answer.status}, {found:,} bytes of {size:,}")
    return time.perf_counter() - began


def downloads(retort: Program, bare: Program, file: Path, rounds: int) -> dict[str, float]:
    """The share of FileResponse's speed, and how much the process's memory grew."""
    address, size = store_artifact(retort, file), file.stat().st_size
    download_seconds(retort, address, size)
    download_seconds(bare, "/file", size)
    retort.server.forget_peak()
    before = retort.server.memory_mib()
    rows = [(download_seconds(retort, address, size), download_seconds(bare, "/file", size)) for _ in range(rounds)]
    return {
        "of_file_response": round(statistics.median(theirs / ours for ours, theirs in rows), 3),
        "mib_per_second": round(size / 2**20 / statistics.median(ours for ours, _ in rows)),
        "grew_mib": round(retort.server.memory_mib("VmHWM") - before, 1),
    }


def install_peer() -> Path:
    """The peer's own environment; its programs."""
    uv = str(Path(sys.executable).with_name("uv"))
    programs = PEER_FOLDER / "bin"
    if not (programs / "mlflow").exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(PEER_FOLDER)], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", str(programs / "python")]
        subprocess.run([*install, PEER, "psycopg[binary]", "uvloop", "httptools"], check=True)
    return programs


@contextmanager
def start_peer(database_url: str, folder: Path) -> Iterator[Program]:
    """MLflow's tracking server, one process, without what it runs beside."""
    programs = install_peer()
    command = [
        str(programs / "mlflow"), "server", "--backend-store-uri", database_url, "--default-artifact-root", str(folder),
        "--no-serve-artifacts", "--host", "127.0.0.1", "--port", "{port}", "--workers", "1", "--uvicorn-opts",
        "--loop uvloop",
    ]  # fmt: skip
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    runs = "/api/2.0/mlflow/runs"
    with serving(command, "/health", folder / "peer.log", os.environ | quiet) as server:
        tags = [{"key": "recipe", "value": json.dumps(RECIPE)}]
        yield Program(
            server,
            ("POST", f"{runs}/create", {"experiment_id": "0", "run_name": "bench", "start_time": 1, "tags": tags}),
            lambda made: ("GET", f"{runs}/get?run_id={made['run']['info']['run_id']}", None),
            ("POST", f"{runs}/search", {"experiment_ids": ["0"], "max_results": LISTED}),
            {},
        )


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--requests", type=int, default=60, help="of each kind, program and round")
    parser.add_argument("--mib", type=int, default=256, help="size of the artifact")
    parser.add_argument("--without-peer", action="store_true")
    options = parser.parse_args()
    where = machine()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="retort-api-")))
        url = stack.enter_context(postgresql(("retort", "bare", "peer")))
        key = prepare(f"{url}/retort", folder / "data")
        file = folder / "large.bin"
        file.write_bytes(os.urandom(options.mib << 20))
        retort = Program(
            stack.enter_context(front_end(folder / "retort.log")),
            ("POST", "/v1/jobs", RECIPE),
            lambda made: ("GET", f"/v1/jobs/{made['id']}", None),
            ("GET", f"/v1/jobs?limit={LISTED}", None),
            {"Authorization": f"Bearer {key}"},
        )
        command = [sys.executable, str(Path(__file__).with_name("_bare_api.py")), "{port}", f"{url}/bare", str(file)]
        bare = Program(
            stack.enter_context(serving(command, "/healthz", folder / "bare.log")),
            ("POST", "/rows", RECIPE),
            lambda made: ("GET", f"/rows/{made['id']}", None),
            ("GET", f"/rows?limit={LISTED}", None),
            {},
        )
        one = compare({"retort": retort, "bare": bare}, 1, options.rounds, options.requests)
        figures: dict[str, Any] = {
            "of_bare": {kind: ratio(one, f"{kind} bare", f"{kind} retort") for kind in ("create", "read", "list")},
            "milliseconds": {
                kind: round(1000 * statistics.median(row[f"{kind} retort wait"] for row in one), 2)
                for kind in ("create", "read", "list")
            },
            "download": downloads(retort, bare, file, min(5, options.rounds)),
        }
        if not options.without_peer:
            peer = stack.enter_context(start_peer(f"{url}/peer", folder))
            many = compare({"retort": retort, "peer": peer}, CLIENTS, options.rounds, options.requests)
            kinds = ("create", "read", "list")
            figures["over_peer"] = {kind: ratio(many, f"{kind} peer", f"{kind} retort") for kind in kinds}
            figures["a_second"] = {
                name: {kind: round(1 / statistics.median(row[f"{kind} {name}"] for row in many)) for kind in kinds}
                for name in ("retort", "peer")
            }
    figures |= {"peer": PEER, "rounds": options.rounds, "requests": options.requests, "mib": options.mib}
    for name, value in figures.items():
        print(f"{name:13} {value}")
    print(json.dumps(figures | where))


if __name__ == "__main__":
    main()
