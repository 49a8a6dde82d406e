"""Processes that torch's launcher starts give what one gives, stop together, and end together."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from retort.engine.__main__ import carry_out
from retort.engine.event_log import EventLog
from retort.engine.group import Group, join
from retort.engine.interrupt import FINISHED, IMPOSSIBLE, STOPPED, Impossible, Interrupt
from retort.kinds import DISTILL
from retort.order import Order, Paths
from tests.retort.engine.forks import PATIENCE_SECONDS, Engine, ForkGroup, Program, Together
from tests.retort.engine.runs import recipe_of
from tests.servers import free_port, wait_until

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
SGD = {"name": "sgd", "learning_rate": 0.001}
"""Low, so that rounding does not grow: at 0.05 one process with two threads is 1e-2 from one with one thread."""


def launch(processes: int, module: str, *arguments: str) -> list[str]:
    address = ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), *address]
    return [*launcher, "-m", module, *arguments]


class Launched(Together):
    """A run that torch's launcher starts."""

    def start(self, *options: str) -> subprocess.Popen:
        command = launch(2, "retort.engine", str(self.directory / "recipe.json"), str(self.directory), *options)
        with self.log.open("ab") as out, (self.directory / "stderr").open("ab") as err:
            return subprocess.Popen(command, stdout=out, stderr=err, env=ENVIRONMENT)


def metrics(engine: Engine) -> dict[tuple, dict]:
    told = [event for event in engine.events() if event.kind in ("metrics", "evaluation")]
    return {(event.phase, event.network, event.kind, event.epoch): event.values for event in told}


def apart(one: Engine, other: Engine, network: str) -> float:
    """Of all weights and running statistics together."""
    a, b = (load_file(engine.directory / f"artifacts/{network}.safetensors") for engine in (one, other))
    assert a.keys() == b.keys()
    difference, whole = (torch.cat([t.double().flatten() for t in ts]) for ts in ([a[n] - b[n] for n in a], a.values()))
    return float(difference.norm() / whole.norm())


METHODS = {
    "kd": ({"name": "kd"}, 2e-6),
    "r2kd": ({"name": "r2kd", "pruned_teacher_mode": "train"}, 2e-6),
    "crd": ({"name": "crd", "negatives": 32}, 2e-6),
    "simkd": ({"name": "simkd"}, 2e-6),
    "fitnet": ({"name": "fitnet"}, 1e-5),
    "nckd": ({"name": "nckd"}, 5e-5),
    "ab": ({"name": "ab", "epochs": 1}, 2e-4),
    "ft": ({"name": "ft", "epochs": 1}, 1e-3),
}
"""What is trained, and how far apart its weights may be (relative, Euclidean norm): 10 times and more what is seen, and
less than without the gradient's factor or the sums in batch norm's backward."""


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Engine, Together]:
    """The same recipe in one process and in two. 126 images: the last batch of an epoch has 30, 27 parts of one."""
    recipe = recipe_of(epochs=1, optimizer=SGD)
    recipe["teacher"]["teach"] = recipe["training"]
    recipe["students"] = [{"name": n, "architecture": "resnet8", "methods": [m]} for n, (m, _) in METHODS.items()]
    recipe["evaluation"] = {"ship": "last"}
    folder = tmp_path_factory.mktemp("group")
    one, two = Engine(folder / "one", recipe), Together(folder / "two", recipe)
    for engine in (one, two):
        code = engine.run("--teacher-cache", str(folder / "cache"))
        assert code == FINISHED, (engine.directory / "stderr").read_text()
    return one, two


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_train_the_student_that_one_trains(pair, name):
    one, two = pair
    assert apart(one, two, name) < METHODS[name][1]


def test_two_processes_tell_the_metrics_of_one(pair):
    one, two = map(metrics, pair)
    assert one.keys() == two.keys()
    for key, values in one.items():
        for name, value in values.items():
            # An image at the border between two classes may go either way.
            wanted = pytest.approx(value, rel=2e-3, abs=2 / 180 if "evaluation" in key else 1e-5)
            assert two[key][name] == wanted or name.endswith("correct"), (key, name)


def test_each_record_is_said_by_one_process(pair):
    keys = [event.key for event in pair[1].events()]
    assert len(keys) == len(set(keys))
    assert [event.key for event in pair[0].events()] == keys


def test_what_the_teacher_says_is_kept_apart_from_what_it_says_to_one(pair):
    files = [file for file in (pair[1].directory.parent / "cache").rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".npy"}
    # Of what the teacher says of R2KD's view, one of each run: the last bits of parts of a batch may differ.
    assert len({file.parent for file in files}) == len(files) == 2


LONG = recipe_of({"name": "kd"}, epochs=4, optimizer=SGD, gradient_accumulation=2, weight_average={"decay": 0.9})
LONG["teacher"]["teach"] = LONG["training"] | {"epochs": 1}


def is_distilling(line: dict) -> bool:
    return line["line"] == "event" and line["phase"] == "distilling" and line["kind"] == "metrics"


def test_two_stop_together_and_one_goes_on(tmp_path):
    undisturbed, stopped = Engine(tmp_path / "undisturbed", LONG), Together(tmp_path / "stopped", LONG)
    assert stopped.run_to(signal.SIGTERM, kind="metrics", phase="distilling", epoch=1) == STOPPED
    checkpoint = [line for line in stopped.lines() if line["line"] == "checkpoint"][-1]
    assert (stopped.directory / "checkpoints" / checkpoint["file"]).is_file()
    assert 0 < checkpoint["step"] < 4 * 4
    assert not (stopped.directory / "artifacts.json").exists()

    assert undisturbed.run() == FINISHED
    assert Engine.start(stopped).wait(PATIENCE_SECONDS) == FINISHED, (stopped.directory / "stderr").read_text()
    assert apart(undisturbed, stopped, "student") < 2e-6
    assert "passed over" not in (stopped.directory / "stderr").read_text()


def processes_of(launcher: subprocess.Popen) -> dict[int, int]:
    """Process ids by rank."""
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    found = {}
    for pid in map(int, children):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(v.removeprefix(b"RANK=")): pid for v in variables if v.startswith(b"RANK=")}
    return found


def test_when_one_is_killed_the_other_ends(tmp_path):
    engine = Launched(tmp_path / "killed", recipe_of({"name": "kd"}, epochs=2000))
    launcher = engine.start()
    engine.wait_for(launcher, is_distilling)
    ranks = processes_of(launcher)
    assert set(ranks) == {0, 1}
    os.kill(ranks[1], signal.SIGKILL)
    assert launcher.wait(PATIENCE_SECONDS) != FINISHED
    wait_until(lambda: not Path(f"/proc/{ranks[0]}").exists(), "the other ends")


def test_three_processes_read_a_network_as_one_does(tmp_path):
    """In float64, with dropout and stochastic depth, 7 images among 3 processes, and a loss over the whole batch."""
    names = ["mobilenet_v2", "efficientnet_b0", "frozen", "noisy", "kept"]
    out, err = tmp_path / "out", tmp_path / "err"
    program = Program("tests.retort.engine.shares", names, out, err, dict(os.environ))
    assert ForkGroup(3, program).wait(PATIENCE_SECONDS) == 0, err.read_text()
    lines = {line.pop("network"): line for line in map(json.loads, out.read_text().splitlines())}
    assert list(lines) == names
    assert all(line.pop("processes") == 3 for line in lines.values())
    assert lines.pop("noisy") == {
        "refused": "a network draws random numbers besides dropout and stochastic depth, which several processes "
        "cannot do as one; train it in one process"
    }
    # Not known at first, then known, to be compared once, and the same values in all processes.
    assert lines.pop("kept") == {
        "known": [False, True, True],
        "checks": [True, False],
        "apart": 0,
        "files of others": 0,
    }
    for name, line in lines.items():
        assert max(line.values()) < 1e-9, name
        assert line["next draw"] == 0, name
    assert sum(name.startswith("gradient of") for name in lines["mobilenet_v2"]) > 100


@pytest.mark.parametrize(
    ("training", "sentence"),
    [
        ({"batch_size": 2}, "batch_size is 2; each of 4 processes needs an example at least"),
        (
            {"on_out_of_memory": "accumulate"},
            "on_out_of_memory is accumulate, which one process alone can do; give the number of micro-batches as "
            "gradient_accumulation",
        ),
    ],
)
def test_what_several_processes_cannot_do_is_said(tmp_path, training, sentence):
    deterministic = torch.are_deterministic_algorithms_enabled()
    paths = Paths(directory=tmp_path, checkpoints=tmp_path / "checkpoints", weights=tmp_path)
    order = Order(kind=DISTILL, spec=recipe_of({"name": "kd"}, **training), paths=paths)
    with (tmp_path / "log").open("wb") as out:
        code = carry_out(order, EventLog(out.fileno()), Interrupt(), Group(rank=0, size=4))
    torch.use_deterministic_algorithms(deterministic)
    assert code == IMPOSSIBLE
    assert json.loads((tmp_path / "log").read_text().splitlines()[-1])["text"] == sentence


def test_a_process_for_each_gpu_is_asked_for(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(Impossible, match="2 processes were started on a machine with 1 GPUs"):
        join()


@pytest.mark.parametrize(("count", "size"), [(7, 2), (8, 3), (3, 3), (2, 3), (0, 2), (5, 1)])
def test_shares_cover_a_batch_once(count, size):
    shares = [range(count)[Group(rank, size).share(count)] for rank in range(size)]
    if count < size or size == 1:
        assert shares == [range(count)] * size  # each process computes all of it
    else:
        assert [i for share in shares for i in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
