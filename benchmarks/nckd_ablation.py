"""Which of NCKD's choices pay: one changed at a time, and beside other methods, over seeds.

    .venv/bin/python benchmarks/nckd_ablation.py [--seeds 10] [--folder DIR] [--changes '[{"nc3_scale": 4}]']

On the digits with a tenth of the labels, or on a folder of small photographs. The seeds are others than those of
benchmarks/learning.py. Each figure is the mean difference to the student without a teacher, in points of test
accuracy, with half the width of its 95 % interval.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from _tasks import digits, gain, small_photographs

FIRST_SEED = 100
CHANGES: list[dict[str, Any]] = [
    {},
    {"nc3": False},
    *({"nc3_scale": scale} for scale in (2, 4, 8, 16, 32)),
    *({"nc1_weight": weight} for weight in (0, 0.3, 3, 10)),
    *({"nc1_temperature": temperature} for temperature in (0.05, 0.1, 0.2, 0.5, 1)),
    *({"nc1": "pull", "nc1_weight": weight} for weight in (1, 5)),
    *({"nc2_weight": weight} for weight in (0, 1, 10, 100)),
    {"nc2_target": "simplex"},
    *({"nc2_momentum": momentum} for momentum in (0, 0.5)),
    *({"nc3": False, "nc2_weight": weight} for weight in (0, 10)),
    {"nc3": False, "nc1": "pull", "nc1_weight": 5},
]


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="an image folder to train on instead of the digits")
    parser.add_argument("--changes", type=json.loads, default=CHANGES, help="a JSON list of fields to change together")
    options = parser.parse_args()
    task = small_photographs(options.folder) if options.folder else digits()
    told = {f"nckd-{i}": f"nckd {change or 'with its defaults'}" for i, change in enumerate(options.changes)}
    students = {f"nckd-{i}": [{"name": "nckd"} | change] for i, change in enumerate(options.changes)}
    for other in ("kd", "crd", "simkd"):
        students[other] = [{"name": other}]
        told[other] = other
        if other != "simkd":
            students[f"{other}-nckd"] = [{"name": other}, {"name": "nckd"}]
            told[f"{other}-nckd"] = f"{other} and nckd"
        students[f"{other}-plug-in"] = [{"name": other}, {"name": "nckd", "nc3": False}]
        told[f"{other}-plug-in"] = f"{other} and nckd without nc3"
    with tempfile.TemporaryDirectory() as folder:
        task.teach(Path(folder))
        seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
        rows = [task.distil(Path(folder), students, seed) for seed in seeds]
    gains = {told[name]: gain(rows, name) for name in students}
    for name, (mean, half) in gains.items():
        print(f"{name:60} {mean:+.2f} +- {half:.2f}")
    rounded = {name: [round(mean, 2), round(half, 2)] for name, (mean, half) in gains.items()}
    print(json.dumps({"seeds": options.seeds, "folder": str(options.folder), "gain_points": rounded}))


if __name__ == "__main__":
    main()
