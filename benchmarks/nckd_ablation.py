"""Which of NCKD's choices pay: one changed at a time, on the digits with a tenth of the labels, over ten seeds.

    .venv/bin/python benchmarks/nckd_ablation.py [--seeds 10]

The seeds are others than those of benchmarks/learning.py. Each figure is the mean difference to the student without a
teacher, in points of test accuracy, with half the width of its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from _few_labels import distil, gain, teach

FIRST_SEED = 100

CENTRE: dict[str, Any] = {"name": "nckd"}
CHANGES: dict[str, list[dict[str, Any]]] = {
    "defaults": [{}],
    "nc3": [{"nc3": False}],
    "nc3-scale": [{"nc3_scale": scale} for scale in (4, 8, 32)],
    "nc1-weight": [{"nc1_weight": weight} for weight in (0, 0.3, 3, 10)],
    "nc1-temperature": [{"nc1_temperature": temperature} for temperature in (0.05, 0.2, 0.5)],
    "nc1-pull": [{"nc1": "pull", "nc1_weight": weight} for weight in (1, 5)],
    "nc2-weight": [{"nc2_weight": weight} for weight in (0, 10, 100)],
    "nc2-target": [{"nc2_target": "simplex"}],
    "nc2-momentum": [{"nc2_momentum": momentum} for momentum in (0, 0.5)],
    "plain": [{"nc3": False, "nc2_weight": weight, "nc1_weight": 1} for weight in (0, 10)],
    "plain-pull": [{"nc3": False, "nc1": "pull", "nc1_weight": 5}],
}


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(FIRST_SEED, FIRST_SEED + parser.parse_args().seeds)
    students, told = {}, {}
    for name, changes in CHANGES.items():
        for i, change in enumerate(changes):
            students[f"{name}-{i}"] = [CENTRE | change]
            told[f"{name}-{i}"] = ", ".join(f"{field} {value}" for field, value in change.items()) or "defaults"
    students |= {
        "kd": [{"name": "kd"}],
        "kd-nckd": [{"name": "kd"}, CENTRE],
        "kd-plain": [{"name": "kd"}, CENTRE | {"nc3": False}],
    }
    told |= {"kd": "kd alone", "kd-nckd": "kd and nckd", "kd-plain": "kd and nckd, nc3 False"}
    with tempfile.TemporaryDirectory() as folder:
        teach(Path(folder))
        rows = [distil(Path(folder), students, seed) for seed in seeds]
    gains = {name: gain(rows, name) for name in students}
    for name, (mean, half) in gains.items():
        print(f"{told[name]:50} {mean:+.2f} +- {half:.2f}")
    print(
        json.dumps({"seeds": len(rows), "gain_points": {told[n]: [round(x, 2) for x in g] for n, g in gains.items()}})
    )


if __name__ == "__main__":
    main()
