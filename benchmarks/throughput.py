"""A step of plain KD from end to end, against torchdistill and against the same two networks with nothing around them.

    .venv/bin/python benchmarks/throughput.py [--rounds 5] [--steps 6]

resnet32x4 teaches resnet8x4; 50,000 random images of 32 x 32 pixels in memory, 100 classes, batches of 64, cropped and
flipped. The programs take turns:

- `engine`: a job as a worker runs it: loading, augmentation, teacher, student, loss, optimizer, records.
- `peer`: torchdistill, driven as its documentation and its example for CIFAR-100 do it: a distillation box with its
  KDLoss, torchvision's transforms in a data loader, its logger; float32, which is its default. It is given the number
  of loading processes that is best for it on this machine.
- `limit`: the same networks in the engine's arithmetic on one batch that lies on the device, no data and no records.

`over_peer` and `of_limit` are medians over the rounds of the ratio within a round: how many times as fast as the peer
the engine is in the arithmetic that it chooses here (and in float32), and which share of the limit's speed it reaches.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from _paced import (
    BATCH,
    CLASSIFICATION,
    IMAGES,
    LABEL_WEIGHT,
    SIDE,
    STUDENT,
    TEACHER,
    TEMPERATURE,
    PacedEventLog,
    Turns,
    device,
    facts,
    machine,
    median_ratio,
    noise,
    recipe,
    run,
    time_in_turns,
    write_teacher,
)
from torch import Tensor
from torch.nn import functional as F

from retort.architectures import CARDS
from retort.engine.context import resolve_for
from retort.engine.frozen import autocast
from retort.engine.inference import quick
from retort.engine.networks import freeze, initialised, placed
from retort.engine.optimize import make_optimizer

PEER = "torchdistill==1.1.5"
PEER_FOLDER = Path(__file__).parent.parent / ".bench" / PEER
PEER_PROGRAM = Path(__file__).with_name("_torchdistill.py")
PEAKS = {"H100 80GB HBM3": 989.4e12, "H200": 989.4e12, "A100": 312e12}
"""Dense bfloat16 multiplications and additions a second, from the makers' data sheets, by words of the card's name."""
PASSES = {"teacher": 1, "student": 3}
"""Forward passes that a step is worth: backward costs two."""


def serve_engine(folder: Path, precision: str) -> None:
    """A job's run, a turn at a time."""
    run(recipe(IMAGES, ["student"], precision=precision), folder, f"engine {precision}", PacedEventLog())()


def serve_limit(precision: str) -> None:
    """The two networks on one batch."""
    training = recipe(IMAGES, ["student"], precision=precision).training
    torch.use_deterministic_algorithms(device().type == "cpu")  # as the engine does
    teacher = quick(
        freeze(placed(initialised(CLASSIFICATION, TEACHER, 0, facts(IMAGES)), device())),
        CLASSIFICATION.sample(facts(IMAGES), 2, seed=0),
    )
    student = placed(initialised(CLASSIFICATION, STUDENT, 0, facts(IMAGES)), device()).train()
    optimizer = make_optimizer(training, student.parameters(), ())
    split = noise(BATCH, 0)
    images = (split.pixels.to(device()).float() / 255).contiguous(memory_format=torch.channels_last)
    labels = split.targets.to(device())
    turns = Turns()
    while True:
        with autocast(training, device()):
            with torch.no_grad():
                teacher_NK = teacher(images)
            student_NK = student(images)
        optimizer.zero_grad(set_to_none=True)
        loss(student_NK.float(), teacher_NK.float(), labels).backward()
        optimizer.step()
        turns()


def loss(student_NK: Tensor, teacher_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Plain KD with the labels' term."""
    soft = F.kl_div(
        F.log_softmax(student_NK / TEMPERATURE, 1), F.softmax(teacher_NK / TEMPERATURE, 1), reduction="batchmean"
    )
    return (1 - LABEL_WEIGHT) * TEMPERATURE**2 * soft + LABEL_WEIGHT * F.cross_entropy(student_NK, labels_N)


def install_peer() -> dict[str, str]:
    """Put the peer beside this project's packages, for its own processes alone; the environment that finds it.

    It runs on the same torch as the engine. What else it asks for (scipy, yaml) is here already, but for cython, which
    only building it needs.
    """
    if not PEER_FOLDER.exists():
        install = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--python", sys.executable]
        subprocess.run([*install, "--no-deps", "--target", str(PEER_FOLDER), PEER], check=True)
    return os.environ | {"PYTHONPATH": str(PEER_FOLDER)}


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100 if device().type == "cuda" else 6, help="of each turn")
    parser.add_argument("--serve", choices=["engine", "limit"], help=argparse.SUPPRESS)
    parser.add_argument("--precision", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve == "engine":
        serve_engine(options.folder, options.precision)
    elif options.serve == "limit":
        serve_limit(options.precision)
    else:
        measure(options.rounds, options.steps)


def measure(rounds: int, steps: int) -> None:
    """Time the programs in turns."""
    where, environment = machine(), install_peer()
    peers = {str(loaders): [sys.executable, str(PEER_PROGRAM), str(loaders)] for loaders in (0, where["cores"] // 2)}
    peers[str(where["cores"])] = [sys.executable, str(PEER_PROGRAM), str(where["cores"])]
    (tried,) = time_in_turns(peers, 1, steps, dict.fromkeys(peers, environment))
    loaders = min(peers, key=lambda name: tried[name])
    precision = resolve_for(recipe(IMAGES, ["student"]), device()).training.precision
    with tempfile.TemporaryDirectory() as temporary:
        write_teacher(Path(temporary))
        me = [sys.executable, __file__, "--folder", temporary, "--precision"]
        commands = {
            "engine": [*me, precision, "--serve", "engine"],
            "limit": [*me, precision, "--serve", "limit"],
            "peer": peers[loaders],
        }
        in_float32 = "engine" if precision == "float32" else "engine in float32"
        commands[in_float32] = [*me, "float32", "--serve", "engine"]
        rows = time_in_turns(commands, rounds, steps, {"peer": environment})
    figures: dict[str, Any] = {
        "over_peer": round(median_ratio(rows, "peer", "engine"), 3),
        "over_peer_in_float32": round(median_ratio(rows, "peer", in_float32), 3),
        "of_limit": round(median_ratio(rows, "limit", "engine"), 3),
        "milliseconds": {name: round(1000 * statistics.median(row[name] for row in rows), 2) for name in commands},
        "precision": precision,
        "peer": PEER,
        "peer_loaders": int(loaders),
        "rounds": rounds,
        "steps": steps,
    }
    peak = next((peak for name, peak in PEAKS.items() if name in where["device"]), None)
    if peak:
        seconds = statistics.median(row["engine"] for row in rows)
        figures["of_peak"] = round(2 * BATCH * multiply_adds() / seconds / peak, 4)
    for name in commands:
        print(f"{name:17} " + " ".join(f"{1000 * row[name]:8.2f}" for row in rows) + "  ms a step, by rounds")
    print(f"{figures['over_peer']:.2f} times as fast as {PEER}, {figures['of_limit']:.1%} of the limit's speed")
    print(json.dumps(figures | where))


def multiply_adds() -> int:
    """Of a step, an image."""
    cards = {"teacher": CARDS[TEACHER], "student": CARDS[STUDENT]}
    assert all(card.image_size == SIDE for card in cards.values())
    return sum(PASSES[name] * card.multiply_adds for name, card in cards.items())


if __name__ == "__main__":
    main()
