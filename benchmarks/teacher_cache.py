"""A second job over the same teacher and data, whose outputs were cached, against the first and against torchdistill.

    .venv/bin/python benchmarks/teacher_cache.py [--rounds 5] [--steps 6]

resnet32x4 teaches resnet8x4 by plain KD; random images of 32 x 32 pixels, 100 classes, batches of 64, cropped and
flipped. One epoch is run to fill the cache. Then jobs take turns: `reading`, which finds that epoch cached,
`computing`, which has no cache, and the peer of `throughput.py`. `over_computing` and `over_peer` are medians over the
rounds of the ratio within a round. At the end both kinds of job are run to their ends, for the digests of the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from _paced import (
    BATCH,
    WARM_UP_STEPS,
    PacedEventLog,
    machine,
    median_ratio,
    nowhere,
    recipe,
    run,
    time_in_turns,
    write_teacher,
)
from throughput import PEER, PEER_PROGRAM, install_peer

from retort.engine.event_log import EventLog


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="of each turn")
    parser.add_argument("--serve", choices=["reading", "computing"], help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        cache = options.folder / "cache" if options.serve == "reading" else None
        run(recipe(options.images, ["student"]), options.folder, options.serve, PacedEventLog(), cache)()
    else:
        measure(options.rounds, options.steps)


def measure(rounds: int, steps: int) -> None:
    """Fill the cache, time the programs in turns, compare digests."""
    where, environment = machine(), install_peer()
    images = BATCH * (WARM_UP_STEPS + rounds * steps + 1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_teacher(folder)
        cache = folder / "cache"
        filled = digest(folder, images, "filling", cache)
        cached = sum(os.path.getsize(file) for file in cache.glob("*/*.npy"))
        me = [sys.executable, __file__, "--images", str(images), "--folder", temporary, "--serve"]
        commands = {name: [*me, name] for name in ("reading", "computing")}
        commands["peer"] = [sys.executable, str(PEER_PROGRAM), "0"]
        rows = time_in_turns(commands, rounds, steps, {"peer": environment})
        same = filled == digest(folder, images, "reading to the end", cache) == digest(folder, images, "none", None)
    figures: dict[str, Any] = {
        "over_computing": round(median_ratio(rows, "computing", "reading"), 3),
        "over_peer": round(median_ratio(rows, "peer", "reading"), 3),
        "same_weights": same,
        "milliseconds": {name: round(1000 * statistics.median(row[name] for row in rows), 2) for name in commands},
        "cached_bytes_an_image": round(cached / images, 1),
        "peer": PEER,
        "rounds": rounds,
        "steps": steps,
    }
    for name in commands:
        print(f"{name:10} " + " ".join(f"{1000 * row[name]:8.2f}" for row in rows) + "  ms a step, by rounds")
    print(f"{figures['over_computing']:.2f} times as fast as the first job, {figures['over_peer']:.2f} times {PEER}")
    print(json.dumps(figures | where))
    if not same:
        sys.exit("cached outputs give other weights than computed ones")


def digest(folder: Path, images: int, directory: str, cache: Path | None) -> str:
    """sha256 of the student's weights after one epoch."""
    run(recipe(images, ["student"], epochs=1), folder, directory, EventLog(nowhere()), cache)()
    return sha256((folder / directory / "artifacts/student.safetensors").read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
