"""`retort doctor` against servers that are well, and against each that is not."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner, Result

from retort.cli.main import app
from service.db import database_now, get_engine, transaction
from service.jobs.models import JobRow
from service.migrations import downgrade
from service.revisions import head
from service.workers.models import WorkerRow
from tests.conftest import free_port
from tests.retort.client.conftest import Service
from tests.service.rows import add_job, add_project
from tests.test_boundaries import TORCH, run_without

Environment = Callable[..., None]
Findings = dict[str, dict[str, str]]
NAMES = [
    "versions", "settings", "database", "clock", "workers", "broker", "storage", "data roots", "device",
    "engine", "service",
]  # fmt: skip

AS_ROOT = {"engine": "warn"} if os.geteuid() == 0 else {}
"""Findings of root, whose engines are root as well where its folders are closed to others."""


def checked(*words: str) -> tuple[int, Findings]:
    """Exit code and findings by name; what is said to people and to programs agrees."""
    runner = CliRunner()
    as_json: Result = runner.invoke(app, ["doctor", "--json", *words])
    said = json.loads(as_json.stdout)
    assert said["ok"] is (as_json.exit_code == 0)
    for finding in said["checks"]:
        assert bool(finding["advice"]) is (finding["status"] != "ok"), finding
        assert "\n" not in finding["found"] + finding["advice"]
    return as_json.exit_code, {finding["name"]: finding for finding in said["checks"]}


def add_worker(*, seconds_ago: float) -> None:
    with transaction() as session:
        now = session.scalars(database_now().select()).one()
        session.add(WorkerRow(id="w", host="here", started_at=now - 900, seen_at=now - seconds_ago))


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nothing answers."""
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("RETORT_URL", url)
    return url


def test_all_is_well(service: Service, environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    environment(database_url=service.database_url, data_roots=tmp_path / "images")
    add_worker(seconds_ago=2)
    try:
        code, found = checked()
        result = CliRunner().invoke(app, ["doctor"])
    finally:
        with transaction() as session:
            session.query(WorkerRow).delete()
    assert (code, [*found]) == (0, [*NAMES, "key"])
    assert {name: finding["status"] for name, finding in found.items() if finding["status"] != "ok"} == AS_ROOT
    assert found["versions"]["found"].startswith(f"Python {sys.version.split()[0]}, retort ")
    assert found["database"]["found"].endswith(f", migration {head()}")
    assert found["workers"]["found"].startswith("1 alive, the last was seen ")
    assert found["service"]["found"] == f"{service.url} is ready"
    assert found["data roots"]["found"] == str(tmp_path / "images")
    assert result.exit_code == 0
    statuses = [line.split()[0] for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert statuses == [finding["status"] for finding in found.values()]
    if AS_ROOT:
        assert found["engine"]["found"].startswith("runs as root; has ")
        assert found["engine"]["advice"].startswith("Run the worker as an ordinary user, or keep its interpreter")
    assert service.key not in result.stdout


@pytest.mark.server
def test_the_other_pair_is_well_too(
    postgresql_database: str, redis_broker: str, environment: Environment, nowhere: str
) -> None:
    environment(database_url=f"{postgresql_database}?application_name=hidden", broker_url=redis_broker)
    code, found = checked()
    assert code == 1
    wrong = {name: finding["status"] for name, finding in found.items() if finding["status"] != "ok"}
    assert wrong == {"workers": "warn", "service": "fail", **AS_ROOT}
    assert found["database"]["found"].startswith("PostgreSQL ")
    assert "hidden" not in found["database"]["found"]
    assert found["broker"]["found"] == f"{redis_broker} answers"
    assert found["clock"]["found"].endswith("the database's")
    assert found["workers"]["found"] == "none is alive, none was ever seen; 0 jobs wait"
    assert found["service"]["found"].startswith(f"no service answers at {nowhere} (")


@pytest.mark.server
def test_a_clock_that_is_off_is_told_by_how_much(
    postgresql_database: str, environment: Environment, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(database_url=postgresql_database)
    monkeypatch.setattr("service.db.clock_offset_seconds", 90.0)
    found = checked()[1]["clock"]
    assert found["status"] == "warn"
    assert found["found"].endswith(" s behind the database's")
    assert 88 < float(found["found"].split()[0]) < 92


def test_a_database_without_room_fails(
    sqlite_database: str, environment: Environment, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(database_url=sqlite_database)
    monkeypatch.setattr("service.health.service.LEAST_FREE_BYTES", 2**62)
    found = checked()[1]["database"]
    assert found["status"] == "fail"
    assert " the disk of the database is full: " in found["found"]
    assert found["advice"] == "Make room on that disk."


def test_servers_that_are_down_are_told_without_their_passwords(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(
        database_url="postgresql+psycopg://me:pass-word@127.0.0.1:1/none?password=pass-word",
        broker_url="redis://:pass-word@127.0.0.1:1/0",
    )
    monkeypatch.setenv("RETORT_URL", "http://me:pass-word@127.0.0.1:1")
    code, found = checked()
    assert code == 1
    assert found["database"]["status"] == "fail"
    assert found["database"]["found"].startswith("postgresql+psycopg://me:***@127.0.0.1:1/none cannot be used: ")
    assert found["broker"]["status"] == "warn"
    assert found["broker"]["found"].startswith("redis://:***@127.0.0.1:1/0 cannot be reached: ")
    assert {found[name]["found"] for name in ("clock", "workers")} == {"not known without the database"}
    assert "pass-word" not in json.dumps(found)
    assert "pass-word" not in CliRunner().invoke(app, ["doctor"]).stdout


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("not an address", "RETORT_DATABASE_URL is no address of a database"),
        ("sqlite:////nowhere/retort.db", "there is no file /nowhere/retort.db"),
        ("oracle+nothing://h/d", "cannot be used: Can't load plugin: sqlalchemy.dialects:oracle.nothing"),
    ],
)
def test_a_database_that_is_none(environment: Environment, nowhere: str, url: str, said: str) -> None:
    environment(database_url=url)
    code, found = checked()
    assert (code, found["database"]["status"]) == (1, "fail")
    assert said in found["database"]["found"]
    assert not Path("/nowhere").exists()


def test_a_file_that_is_no_database(environment: Environment, nowhere: str, tmp_path: Path) -> None:
    (tmp_path / "retort.db").write_text("something else, but long enough to be looked at" * 100)
    environment(database_url=f"sqlite:///{tmp_path / 'retort.db'}")
    assert checked()[1]["database"]["found"].endswith("cannot be used: file is not a database")


def test_a_database_that_was_not_migrated(database: str, nowhere: str) -> None:
    downgrade(get_engine())
    code, found = checked()
    assert code == 1
    assert found["database"]["status"] == "fail"
    assert found["database"]["found"].endswith(f" stands at migration none; {head()} is wanted")
    assert "python -m service.migrations" in found["database"]["advice"]
    assert found["workers"]["status"] == "warn"
    assert found["clock"]["status"] == "ok"


def test_nobody_works(database: str, nowhere: str) -> None:
    add_worker(seconds_ago=7300)
    add_job(add_project())
    found = checked()[1]["workers"]
    assert (found["status"], found["found"]) == (
        "warn", "none is alive, the last was seen 2 h 01 min ago; 1 job waits",
    )  # fmt: skip


def test_storage_that_is_none(sqlite_database: str, environment: Environment, nowhere: str) -> None:
    environment(database_url=sqlite_database, storage_url="file:///proc/retort")
    code, found = checked()
    assert (code, found["storage"]["status"]) == (1, "fail")
    assert found["storage"]["found"].startswith("/proc/retort takes no file: ")


def test_a_disk_that_takes_no_byte(sqlite_database: str, environment: Environment, nowhere: str) -> None:
    environment(database_url=sqlite_database)
    # Bytes of files are what is limited, so that standard output, a pipe, still takes some.
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); from retort.cli.main import app; app()"
    result = subprocess.run(
        [sys.executable, "-c", code, "doctor", "--json"], capture_output=True, text=True, check=False, timeout=120
    )
    assert (result.returncode, result.stderr) == (1, "")
    found = {finding["name"]: finding for finding in json.loads(result.stdout)["checks"]}
    assert {"storage", "service"} <= {name for name, finding in found.items() if finding["status"] == "fail"}
    assert found["storage"]["found"].endswith(" takes no file: File too large")
    assert found["broker"]["status"] == "warn"


def test_room_is_measured_against_what_is_left_alone_and_what_jobs_need(
    sqlite_database: str, environment: Environment, nowhere: str, tmp_path: Path
) -> None:
    free = shutil.disk_usage(tmp_path).free
    environment(database_url=sqlite_database, disk_reserve_bytes=2 * free)
    found = checked()[1]["storage"]
    assert (found["status"], found["advice"]) == ("fail", "Make room: no worker begins a job here.")
    environment(database_url=sqlite_database, disk_reserve_bytes=free // 2)
    assert checked()[1]["storage"]["status"] == "ok"
    job_id = add_job(add_project())
    with transaction() as session:
        session.execute(update(JobRow).where(JobRow.id == job_id).values(needs_disk_bytes=free))
    found = checked()[1]["storage"]
    assert found["status"] == "warn"
    assert "; a job that waits needs " in found["found"]


def test_roots_that_are_not_there(sqlite_database: str, environment: Environment, nowhere: str, tmp_path: Path) -> None:
    environment(database_url=sqlite_database, data_roots=f"{tmp_path}:/nowhere/images")
    code, found = checked()
    assert (code, found["data roots"]["status"]) == (1, "fail")
    assert found["data roots"]["found"] == "cannot be read as folders: /nowhere/images"


def test_a_setting_that_is_wrong_stops_what_needs_it_alone(environment: Environment, nowhere: str) -> None:
    environment(lease_seconds=-1)
    code, found = checked()
    assert (code, [*found]) == (1, ["versions", "settings", "service"])
    assert found["settings"]["found"].startswith("RETORT_LEASE_SECONDS in the environment cannot be used: ")


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://", "http://127.0.0.1:0"])
def test_an_address_that_is_none(environment: Environment, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("RETORT_URL", url)
    code, found = checked()
    assert (code, found["service"]["status"]) == (1, "fail")


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Another server, which answers so to all."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "state", "said"),
    [
        (200, b"<html>", "fail", "answered with something that is not JSON; check that it is a Retort service"),
        (200, b"[1]", "fail", "answers, but not as Retort does"),
        (200, b'{"status": "up"}', "fail", "answers, but not as Retort does"),
        (500, b"oh", "fail", "answers that it cannot work: "),
        (503, b'{"status": 503, "detail": "the database does not answer"}', "fail", "the database does not answer"),
        (
            200,
            b'{"status": "degraded", "broker": "unreachable: x"}',
            "warn",
            "is degraded: its broker is unreachable: x",
        ),
    ],
)
def test_what_the_service_answers(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, state: str, said: str
) -> None:
    with answering(status, body) as url:
        monkeypatch.setenv("RETORT_URL", url)
        found = checked()[1]["service"]
    assert (found["status"], said in found["found"]) == (state, True), found


def test_a_key_that_does_not_open(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETORT_KEY", "rt_aaaaaaaa_" + "a" * 32)
    code, found = checked()
    assert (code, found["key"]["status"]) == (1, "fail")
    assert found["key"]["found"].startswith("the key is unknown, revoked or expired")
    assert found["service"]["status"] == "ok"


def test_a_server_needs_no_key(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETORT_KEY", raising=False)
    monkeypatch.setattr(
        "retort.client._transport.LOOPBACK", frozenset()
    )  # an embedded service's key is read from its file
    found = checked()[1]["key"]
    assert (found["status"], found["found"]) == ("warn", "none is set here, which the service itself does not need")


def program(folder: Path, name: str, script: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("script", "state", "said"),
    [
        ("echo 'NVIDIA H100 80GB HBM3, 81559'", "ok", "NVIDIA H100 80GB HBM3 with 79.6 GiB; "),
        ("echo 'no driver' >&2; exit 9", "warn", "nvidia-smi is installed and lists no GPU; "),
    ],
)
def test_the_driver_is_asked_for_a_gpu(
    environment: Environment, nowhere: str, tmp_path: Path, script: str, state: str, said: str
) -> None:
    environment()
    program(tmp_path, "nvidia-smi", script)
    variables = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    variables.pop("CUDA_VISIBLE_DEVICES", None)
    result = subprocess.run(
        [sys.executable, "-m", "retort.cli.main", "doctor", "--json"], env=variables, capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip
    assert result.stderr == ""
    found = {finding["name"]: finding for finding in json.loads(result.stdout)["checks"]}["device"]
    assert found["found"].startswith(said)
    if "+cpu" not in json.loads(result.stdout)["checks"][0]["found"]:
        assert found["status"] == state


def test_it_needs_no_torch(environment: Environment, nowhere: str) -> None:
    environment()
    said = json.loads(run_without(TORCH, DOCTOR))
    assert [finding["name"] for finding in said["checks"]] == NAMES


DOCTOR = """
import sys
from retort.cli.main import app
sys.argv = ["retort", "doctor", "--json"]
try:
    app()
except SystemExit as end:
    assert end.code == 1
"""


def test_a_check_that_fails_itself_does_not_stop_the_others(
    environment: Environment, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("redis://:pass-word@h\nis odd")

    monkeypatch.setattr("retort.limits.memory", fail)
    found = checked()[1]
    assert [*found] == NAMES
    assert found["device"]["status"] == "fail"
    assert found["device"]["found"] == "the check itself failed: RuntimeError: redis://:***@h is odd"
