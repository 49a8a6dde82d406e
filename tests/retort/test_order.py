"""The order: what a worker writes is what the engine reads, and a wrong one is refused in one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from retort.engine.__main__ import read_order
from retort.engine.interrupt import IMPOSSIBLE, Impossible
from retort.order import CacheDirectory, Confinement, FileRights, Order, Paths

PATHS = {"directory": "/job/attempt-1", "checkpoints": "/job/checkpoints", "weights": "/job/attempt-1/weights"}
SMALLEST: dict[str, Any] = {"kind": "distill", "spec": {}, "paths": PATHS}


def test_it_is_read_as_it_was_written() -> None:
    paths = Paths(
        directory=Path("/job/attempt-1"),
        checkpoints=Path("/job/checkpoints"),
        weights=Path("/job/attempt-1/weights"),
        data_roots=(Path("/data"), Path("/job/inputs")),
        run="7",
        checkpoint_seconds=0.25,
        teacher_cache=CacheDirectory(path=Path("/cache"), max_bytes=2**40),
    )
    files = FileRights(list=("/code",), read=("/usr",), write=("/job",), use=("/dev/null",))
    confinement = Confinement(files=files, network=False, limits={"RLIMIT_FSIZE": 10})
    spec = {"training": {"lr": 0.1, "seed": 2**62}, "students": [{"name": "ü"}], "teacher": None}
    order = Order(kind="distill", spec=spec, paths=paths, finish=True, confine=confinement)
    line = order.model_dump_json()
    assert "\n" not in line
    assert read_order(line.encode()) == order


def test_an_order_needs_kind_spec_and_directories_alone() -> None:
    order = read_order(json.dumps(SMALLEST).encode())
    assert (order.finish, order.confine, order.paths.teacher_cache, order.paths.data_roots) == (False, None, None, ())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kind": "distil"}, "the order is wrong at /kind: 'distil' is not a kind of job"),
        ({"paths": {**PATHS, "weights": None}}, "the order is wrong at /paths/weights: "),
        ({"paths": {**PATHS, "checkpoint_seconds": -1}}, "the order is wrong at /paths/checkpoint_seconds: "),
        ({"store": "/cache"}, "the order is wrong at /store: "),
        ({"confine": {"files": None, "network": False}}, "the order is wrong at /confine/limits: "),
        ({"spec": []}, "the order is wrong at /spec: "),
    ],
)
def test_a_wrong_order_is_refused(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Impossible) as refused:
        read_order(json.dumps(SMALLEST | change).encode())
    assert str(refused.value).startswith(sentence)
    assert "\n" not in str(refused.value)


def test_the_engine_ends_with_the_sentence() -> None:
    command = [sys.executable, "-m", "retort.engine", "--warm"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as engine:
        assert engine.stdin is not None
        assert engine.stdout is not None
        assert engine.stderr is not None
        # Its standard input stays open: the end of it would mean that the parent is gone.
        engine.stdin.write(b'{"kind": "distill"}\n')
        engine.stdin.flush()
        assert engine.wait(300) == IMPOSSIBLE
        assert engine.stderr.read().decode() == "the order is wrong at /spec: Field required\n"
        record = json.loads(engine.stdout.read().splitlines()[-1])
    assert (record["kind"], record["text"]) == ("failed", "the order is wrong at /spec: Field required")
