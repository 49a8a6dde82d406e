"""A run that is told to stop does so in time, and goes on wherever its newest checkpoint is carried."""

import hashlib
import os
import shutil
import signal
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from retort.engine.event_log import EventLog
from retort.engine.interrupt import FINISHED, STOPPED, Interrupt, NothingToKeep, Stopped
from tests.retort.engine.forks import PATIENCE_SECONDS, Engine, Fork
from tests.retort.engine.runs import recipe_of
from tests.retort.engine.test_finish import after_step, attempt, ended, enters
from tests.servers import wait_until

RECIPE = recipe_of({"name": "crd", "negatives": 16}, epochs=2)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("stop") / "undisturbed"
    assert attempt(RECIPE, directory) == FINISHED
    return directory


def test_on_another_machine_it_goes_on_from_the_newest_checkpoint_alone(undisturbed, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    assert attempt(RECIPE, here, stop=after_step(3)) == STOPPED
    (there / "checkpoints").mkdir(parents=True)
    shutil.copy(max((here / "checkpoints").iterdir()), there / "checkpoints")
    shutil.rmtree(here)
    assert attempt(RECIPE, there) == FINISHED
    first = next(line for line in ended(there).lines if line["line"] == "progress")
    assert (first["phase"], first["step"]) == ("distilling", 4)
    assert ended(there).digest() == ended(undisturbed).digest()
    assert ended(there).digest("teacher") == ended(undisturbed).digest("teacher")


def test_a_checkpoint_is_whole_and_on_the_disk_when_it_is_told(tmp_path, monkeypatch):
    synced: list[str] = []
    told: list[Path] = []
    sync, tell = os.fsync, EventLog.checkpoint

    def note(descriptor: int) -> None:
        sync(descriptor)
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    def look(self, file: str, step: int) -> None:
        path = tmp_path / "a/checkpoints" / file
        assert hashlib.sha256(path.read_bytes()).hexdigest().startswith(path.stem.rpartition("-")[2])
        assert [Path(name).suffix for name in synced] == [".draft", ""]
        assert all(before.exists() for before in told[-1:])
        told.append(path)
        synced.clear()
        tell(self, file, step)

    monkeypatch.setattr("os.fsync", note)
    monkeypatch.setattr(EventLog, "checkpoint", look)
    monkeypatch.setattr("retort.engine.checkpoint.Checkpoints.is_due", lambda self: True)
    assert attempt(RECIPE, tmp_path / "a", stop=after_step(2)) == STOPPED
    assert len(told) > 4
    assert [path.exists() for path in told] == [False] * (len(told) - 2) + [True, True]


@pytest.mark.parametrize("phase", ["preparing", "preparing the methods", "compressing", "evaluating", "exporting"])
def test_outside_the_training_it_stops_where_it_stands(undisturbed, tmp_path, phase):
    directory = tmp_path / "a"
    shutil.copytree(undisturbed / "checkpoints", directory / "checkpoints")
    assert attempt(RECIPE, directory, stop=enters(phase)) == STOPPED
    assert ended(directory).lines[-1]["phase"] == phase
    assert not (directory / "artifacts").exists()
    assert attempt(RECIPE, directory) == FINISHED
    assert ended(directory).digest() == ended(undisturbed).digest()


def test_wishes_end_a_stretch_whatever_a_library_makes_of_them():
    def swallowed(wish: str, **stretch: bool) -> None:
        interrupt = Interrupt()
        with interrupt.at_once(**stretch):
            try:
                getattr(interrupt, wish)()
            except BaseException as error:
                raise ValueError("the library's own") from error

    with pytest.raises(Stopped):
        swallowed("set")
    with pytest.raises(NothingToKeep):
        swallowed("set_finish", nothing_to_keep=True)
    swallowed("set_finish")


class _Trickle(BaseHTTPRequestHandler):
    """A large file, a byte every tenth of a second."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000000")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"x")
                self.server.asked.set()
                time.sleep(0.1)
        except OSError:
            return

    def log_message(self, *_: object) -> None:
        pass


def start(directory: Path, recipe: dict, before: str) -> Fork:
    """The engine as a program, once some lines were run that change it."""
    program = Engine(directory, recipe).program()
    environment = program.environment | {"TORCH_HOME": str(directory / "torch")}
    statements = f"{before}\nfrom retort.engine.__main__ import leave, main\nleave(main())"
    return Fork(replace(program, statements=statements, environment=environment))


def stop(process: Fork) -> float:
    """Tell it twice; returns the seconds that it took to end as it should."""
    since = time.monotonic()
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_SECONDS) == STOPPED
    return time.monotonic() - since


def test_a_download_does_not_hold_up_a_stop_and_leaves_nothing(tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), _Trickle) as server:
        server.asked = Event()
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        before = (
            "from retort.datasets import DATASETS\nfrom retort.datasets._fetch import Download\n"
            f"url = 'http://127.0.0.1:{server.server_address[1]}/file'\n"
            "DATASETS['cifar10'].downloads = (Download((url,), '0' * 32, 'cifar', ('*',)),)\n"
        )
        try:
            process = start(tmp_path / "a", {**RECIPE, "dataset": {"name": "cifar10"}}, before)
            assert server.asked.wait(PATIENCE_SECONDS)
            stop(process)  # or it would wait for years
        finally:
            server.shutdown()
            thread.join()
    assert not [path for path in (tmp_path / "a/torch").rglob("*") if path.is_file() or "partial" in path.name]


def test_a_call_that_no_signal_ends_holds_up_a_stop_for_seconds(tmp_path):
    """A product of matrices that takes a minute, in one call."""
    before = (
        "import torch\nfrom retort.datasets.digits import Digits\nimport retort.engine.__main__ as engine\n"
        "engine.LEAVING_SECONDS = 1.0\nfrom pathlib import Path\n"
        "def load(self, roots):\n"
        f"    Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    try:\n"
        "        torch.linalg.matrix_power(torch.ones(3000, 3000), 2**60)\n"
        "    finally:\n"
        f"        Path({str(tmp_path / 'ended')!r}).touch()\n"
        "Digits.load = load\n"
    )
    process = start(tmp_path / "a", RECIPE, before)
    wait_until((tmp_path / "begun").exists, "it computes", PATIENCE_SECONDS)
    time.sleep(2)  # by when it is within the call, on a busy machine too
    assert stop(process) > 0.9
    assert not (tmp_path / "ended").exists()
