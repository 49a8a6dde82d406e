"""Four students of one recipe against four jobs of one student each: what they cost, and that they are the same.

    .venv/bin/python benchmarks/many_students.py [--rounds 5] [--steps 4]

resnet32x4 teaches four of resnet8x4 by plain KD; 50,000 random images of 32 x 32 pixels, 100 classes, batches of 64,
cropped and flipped. Two jobs take turns: one with four students, and one with a single student, four of which make up
the other side. `cost_ratio` is the median over the rounds of the ratio within a round; the teacher cache is off.
Then the recipe and its four parts are run to their ends on 256 images, for the digests of the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

from _paced import IMAGES, PacedEventLog, machine, median_ratio, nowhere, recipe, run, time_in_turns, write_teacher

from retort.engine.event_log import EventLog

NAMES = ["a", "b", "c", "d"]
FEW_IMAGES = 256


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="of each turn")
    parser.add_argument("--serve", choices=["together", "alone"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        names = NAMES if options.serve == "together" else NAMES[:1]
        run(recipe(IMAGES, names), options.folder, options.serve, PacedEventLog())()
    else:
        measure(options.rounds, options.steps)


def measure(rounds: int, steps: int) -> None:
    """Time the two in turns, then compare digests."""
    where = machine()
    with tempfile.TemporaryDirectory() as temporary:
        write_teacher(Path(temporary))
        me = [sys.executable, __file__, "--folder", temporary, "--serve"]
        rows = time_in_turns({name: [*me, name] for name in ("together", "alone")}, rounds, steps, {})
        together = digests(Path(temporary), "all of them", NAMES)
        alone: dict[str, str] = {}
        for name in NAMES:
            alone |= digests(Path(temporary), f"{name} alone", [name])
    ratio = median_ratio(rows, "together", "alone") / len(NAMES)
    figures: dict[str, Any] = {
        "cost_ratio": round(ratio, 3),
        "same_weights": together == alone,
        "milliseconds": {name: round(1000 * statistics.median(row[name] for row in rows), 2) for name in rows[0]},
        "rounds": rounds,
        "steps": steps,
    }
    for name in NAMES:
        print(f"{name}  {together[name]}  {'the same alone' if alone[name] == together[name] else alone[name]}")
    print(f"four students of one recipe cost {ratio:.2f} of four jobs")
    print(json.dumps(figures | where))
    if together != alone:
        sys.exit("a student depends on what is trained beside it")


def digests(folder: Path, directory: str, names: list[str]) -> dict[str, str]:
    """sha256 of each student's weights at the end of a short training."""
    run(recipe(FEW_IMAGES, names, epochs=1), folder, directory, EventLog(nowhere()))()
    made = folder / directory / "artifacts"
    return {name: sha256((made / f"{name}.safetensors").read_bytes()).hexdigest() for name in names}


if __name__ == "__main__":
    main()
