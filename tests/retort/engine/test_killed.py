"""Runs that are killed again and again at moments nobody chose end as if nothing had happened; memory stays flat."""

import json
import random
import signal
import time
from pathlib import Path

import pytest

from retort.engine.interrupt import FINISHED
from tests.retort.engine.forks import PATIENCE_SECONDS, Engine

DIGITS = {"name": "digits", "label_share": 0.1}
COMMON = {"epochs": 4, "batch_size": 32, "augmentation": {"crop_padding": 1}, "threads": 1}
ADAMW = {"name": "adamw", "learning_rate": 0.002}
SGD = {"name": "sgd", "learning_rate": 0.05}
TEACH = {"epochs": 2, "batch_size": 16, "threads": 1}


def recipe(precision, optimizer, training, methods):
    """A student for each list of methods."""
    return {
        "dataset": DIGITS,
        "teacher": {"architecture": "resnet8x4", "teach": TEACH | {"precision": precision, "optimizer": optimizer}},
        "students": [
            {"name": "-".join(method["name"] for method in of_one), "architecture": "resnet8", "methods": of_one}
            for of_one in methods
        ],
        "training": {**COMMON, "precision": precision, "optimizer": optimizer, **training},
        "exports": [{"name": "safetensors"}],
        "fail_if_worse_than_chance": False,
    }


RECIPES = {
    # Memory banks, running means, buffers that each epoch changes, a student that chooses its images.
    "memory": recipe(
        "bfloat16",
        SGD,
        {"schedule": {"name": "cosine"}, "warmup_epochs": 1},
        [
            [{"name": "crd", "negatives": 64}, {"name": "nckd", "nc3": False}],
            [{"name": "rrd"}],
            [{"name": "kcd", "every_epochs": 1, "parts": 2}],
        ],
    ),
    # Phases of methods, a further network that one of them trains, views.
    "phases": recipe(
        "float32",
        ADAMW,
        {"schedule": {"name": "steps", "milestones": [1, 3]}},
        [
            [{"name": "information_flow", "auxiliary_epochs": 2}, {"name": "ab", "epochs": 2}],
            [{"name": "ft", "epochs": 2}],
            [{"name": "r2kd"}],
        ],
    ),
    # Networks that methods replace or add to, and an average of the weights.
    "wraps": recipe(
        "bfloat16",
        ADAMW,
        {"schedule": {"name": "cosine"}, "weight_average": {"decay": 0.9}, "clip_gradient_norm": 1.0},
        [
            [{"name": "simkd"}],
            [{"name": "residual_kd"}],
            [{"name": "nckd", "projection": "linear"}],
        ],
    ),
}


@pytest.fixture(
    scope="module", params=["memory", *(pytest.param(name, marks=pytest.mark.long) for name in ("phases", "wraps"))]
)
def finished(request, tmp_path_factory):
    engine = Engine(tmp_path_factory.mktemp(request.param) / "undisturbed", RECIPES[request.param])
    assert engine.run() == FINISHED, (engine.directory / "stderr").read_text()
    return engine


def said(engine):
    """Records by key; what a resumed run says again must be what it said before."""
    records = {}
    for event in engine.events():
        assert records.setdefault(event.key, event) == event
    return records


def wait_for_draft(engine, process):
    """Until a checkpoint is being written, or the run has ended."""
    while process.poll() is None and not any(engine.directory.glob("checkpoints/.*.draft")):
        pass


def kill_once(engine, order, kills_left, chance):
    """Start it, let it come to a record it has not said yet or into the checkpoint after it, kill it.

    Returns whether it was killed before its end. Records are drawn so that the kills spread over the whole run; half of
    the time it is one that begins a phase, and the kill follows at once.
    """
    known = said(engine)
    ahead = [key for key in order if key not in known] or order[-1:]
    near = ahead[: max(1, len(ahead) // kills_left)]
    begins = next((key for key in ahead if "/phase/" in key), None) if chance.random() < 0.5 else None
    target = begins or chance.choice(near)
    in_checkpoint, seconds = chance.random() < 0.4, 0 if begins else chance.uniform(0, 0.15)
    process = engine.start("--checkpoint-seconds", "0.05")
    while process.poll() is None and target not in {event.key for event in engine.events()}:
        time.sleep(0.05)
    if in_checkpoint:
        wait_for_draft(engine, process)
    else:
        time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    return process.wait(PATIENCE_SECONDS) == -signal.SIGKILL


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_random_moments_it_ends_with_the_same_bits(finished, tmp_path, kills):
    chance = random.Random(kills)
    recipe = json.loads((finished.directory / "recipe.json").read_text())
    order = list(dict.fromkeys(event.key for event in finished.events()))
    phases, cut_short, runs = [], 0, 0
    while len(phases) < kills:
        # One run after the other, when the one before ended between two kills.
        engine, runs = Engine(tmp_path / f"disturbed {runs}", recipe), runs + 1
        while len(phases) < kills and kill_once(engine, order, kills - len(phases), chance):
            phases.append(engine.events()[-1].phase)
            cut_short += any(engine.directory.glob("checkpoints/.*.draft"))
        assert engine.run() == FINISHED, (engine.directory / "stderr").read_text()
        assert engine.digests() == finished.digests()
        assert said(engine) == said(finished)
    if kills > 2:
        assert {"teaching", "distilling"} < set(phases)
        assert cut_short, "no kill met a checkpoint while it was written"


MANY_EPOCHS = {
    "dataset": {"name": "digits", "label_share": 0.05},
    "teacher": {"architecture": "resnet8", "teach": {**COMMON, "precision": "float32", "epochs": 1}},
    "students": [
        {"name": "crd", "architecture": "resnet8", "methods": [{"name": "crd", "negatives": 16}]},
        {"name": "nckd", "architecture": "resnet8", "methods": [{"name": "nckd"}]},
    ],
    "training": {**COMMON, "precision": "float32", "weight_average": {"decay": 0.9}},
    "evaluation": {"every_epochs": 5},
    "exports": [{"name": "safetensors"}],
}
GROWTH_KIB = 4096
"""What the allocator may add between two epochs; the least that an epoch could leave behind, a copy of one student's
weights, would be 310 KiB, 12 MiB in 40 epochs."""


def peak_kib(process):
    """The most that the process has held in memory so far."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell a process's peak memory")
@pytest.mark.parametrize("epochs", [60, pytest.param(200, marks=pytest.mark.long)])
def test_memory_is_flat_over_many_epochs(tmp_path, epochs):
    recipe = {**MANY_EPOCHS, "training": MANY_EPOCHS["training"] | {"epochs": epochs}}
    engine = Engine(tmp_path / "long", recipe)
    looks = [{"kind": "metrics", "phase": "distilling", "epoch": epoch} for epoch in (20, epochs)]
    process = engine.start("--checkpoint-seconds", "0.5", moments=[(signal.SIGSTOP, look) for look in looks])
    peaks = []
    for _ in looks:
        process.wait_until_stopped()
        peaks.append(peak_kib(process))
        process.send_signal(signal.SIGCONT)
    assert process.wait(PATIENCE_SECONDS) == FINISHED
    assert peaks[1] - peaks[0] < GROWTH_KIB, peaks
