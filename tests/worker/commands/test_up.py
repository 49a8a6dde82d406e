from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from retort.client import Retort
from tests.conftest import wait_until
from tests.processes import kill_tree
from tests.retort.client.conftest import RECIPE
from tests.up import Up, start_up

HANG_SECONDS = 300


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retort.cli.main", *words]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=HANG_SECONDS, check=False
    )


def program(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def worker_listens(up: Up) -> bool:
    """Whether the worker takes messages. A signal that comes sooner ends it at once, and its engine a little later."""
    return " ready." in (up.folder / "logs" / "worker.log").read_text()


def test_it_says_where_it_is_and_keeps_its_key_to_itself(shared_up: Up) -> None:
    said = json.loads((shared_up.folder / "ready.json").read_text())
    assert f"Retort is ready at {said['url']}" in shared_up.said()
    assert said["url"].startswith("http://127.0.0.1:")
    assert said["process"] == shared_up.process.pid
    assert stat.S_IMODE((shared_up.folder / "key").stat().st_mode) == 0o600
    assert stat.S_IMODE((shared_up.folder / "retort.db").stat().st_mode) == 0o600
    shown = run("--url", shared_up.url, "jobs", "--json", RETORT_DATA_DIR=str(shared_up.folder))
    with Retort(shared_up.url, shared_up.key) as client:
        known = {job.id for job in client.jobs.list()}
    assert shown.returncode == 0, shown.stderr
    assert {job["id"] for job in json.loads(shown.stdout)} <= known


def test_a_second_one_is_refused_in_one_sentence(shared_up: Up, tmp_path: Path) -> None:
    again = run("up", "--port", "0", "--data-dir", str(shared_up.folder))
    assert again.returncode == 1
    assert again.stderr == f"retort: `retort up` already runs on {shared_up.folder} (process {shared_up.process.pid})\n"
    port = shared_up.url.rpartition(":")[2]
    taken = run("up", "--port", port, "--data-dir", str(tmp_path / "other"))
    assert taken.returncode == 1
    assert taken.stderr == f"retort: port {port} is taken by another program; --port 0 takes a free one\n"


def everything_runs(up: Up) -> None:
    wait_until(
        lambda: len(up.everyone()) >= 4 and worker_listens(up), "API, worker and its warm engine run", HANG_SECONDS
    )


def leaves_no_process(up: Up, number: signal.Signals) -> None:
    """Asked to stop it ends in order, and so do all that it started."""
    up.process.send_signal(number)
    assert up.process.wait(HANG_SECONDS) == 0
    assert up.everyone() == []
    assert up.said().endswith("Stopped.\n")


def test_interrupted_it_leaves_no_process(up: Up) -> None:
    everything_runs(up)
    leaves_no_process(up, signal.SIGINT)


def test_stopped_and_started_again_it_has_what_was_there_and_killed_it_leaves_no_process(up: Up) -> None:
    key, files = up.key, {"key", "retort.db"}
    with Retort(up.url, up.key) as client:
        job = client.jobs.create(RECIPE)
        client.jobs.cancel(job.id)
    everything_runs(up)
    leaves_no_process(up, signal.SIGTERM)
    assert files <= {file.name for file in up.folder.iterdir()}
    (up.folder / "ready.json").unlink()
    (up.folder / "logs" / "worker.log").unlink()
    again = start_up(up.folder)
    try:
        assert again.key == key
        with Retort(again.url, key) as client:
            assert client.jobs.get(job.id).name == job.name
        everything_runs(again)
        again.process.kill()
        again.process.wait()
        wait_until(lambda: again.everyone() == [], "its children end", HANG_SECONDS)
    finally:
        kill_tree(again.process)


def test_a_child_that_dies_is_started_again_on_the_same_port(shared_up: Up) -> None:
    (api,) = (process for process in shared_up.everyone() if "service.app" in program(process))
    os.kill(api, signal.SIGKILL)
    wait_until(lambda: "the API ended with signal SIGKILL; it starts again in 1 s" in shared_up.said(), "it says so")
    with Retort(shared_up.url, shared_up.key) as client:
        # The socket is the parent's: callers wait in it meanwhile.
        assert [*client.jobs.list(name="of nobody")] == []


def test_only_this_machine_reaches_it(shared_up: Up) -> None:
    port = int(shared_up.url.rpartition(":")[2])
    outside = [address for *_, (address, *_) in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    for address in {address for address in outside if not address.startswith("127.0.0.1")}:
        with pytest.raises(OSError):  # noqa: PT011 - refused or unreachable, as the system likes
            socket.create_connection((address, port), timeout=2).close()


@pytest.mark.parametrize(
    ("words", "environment", "sentence"),
    [
        (["--data-dir", "/dev/null/x"], {}, "the folder /dev/null/x cannot be made"),
        ([], {"RETORT_LEASE_SECONDS": "-1"}, "RETORT_LEASE_SECONDS in the environment cannot be used"),
        ([], {"RETORT_DATABASE_URL": "postgresql+psycopg://retort@127.0.0.1:9/retort"}, "the database cannot be used"),
    ],
)
def test_what_it_cannot_use_it_says_in_one_sentence(
    words: list[str], environment: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    said = run("up", "--port", "0", *(words or ["--data-dir", str(tmp_path / "up")]), **environment)
    assert said.returncode in (1, 2)
    assert sentence in said.stderr
    assert "Traceback" not in said.stderr
    assert len(said.stderr.splitlines()) == 1
