"""Accuracy in float32 against the arithmetic that the engine chooses by itself, over seeds, on a task not saturated.

    .venv/bin/python benchmarks/precision.py [--seeds 5] [--folder IMAGES]

The digits with a tenth of the labels, or a folder of images brought to 32 pixels. One teacher, taught in float32;
students by `kd` and without a teacher, of the same initialisation and the same images, in both arithmetics. `gap` is
the mean over the seeds of the accuracy in bfloat16 less that in float32, in points, `spread` the standard deviation
over the seeds in float32; the two agree where the gap is within the spread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from _tasks import digits, gain, small_photographs

from retort.recipe import BASELINE_NAME

STUDENTS = {"kd": [{"name": "kd"}]}
PRECISIONS = ("float32", "bfloat16")


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="images in one folder a class, instead of the digits")
    options = parser.parse_args()
    task = small_photographs(options.folder) if options.folder else digits()
    rows: dict[str, list[dict[str, float]]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        teacher = replace(task, teaching=task.teaching | {"precision": "float32"}).teach(folder)
        for seed in range(options.seeds):
            for precision in PRECISIONS:
                place = folder / precision
                place.mkdir(exist_ok=True)
                if not (place / "weights").exists():
                    (place / "weights").symlink_to(folder / "weights")
                same = replace(task, training=task.training | {"precision": precision})
                rows[precision].append(same.distil(place, STUDENTS, seed))
            print(seed, {precision: rows[precision][-1] for precision in PRECISIONS}, flush=True)
    figures = {}
    for name in (*STUDENTS, BASELINE_NAME):
        plain, fast = ([100 * row[name] for row in rows[precision]] for precision in PRECISIONS)
        figures[name] = {
            "float32": round(statistics.mean(plain), 2),
            "bfloat16": round(statistics.mean(fast), 2),
            "gap": round(statistics.mean(b - a for a, b in zip(plain, fast, strict=True)), 2),
            "spread": round(statistics.stdev(plain), 2),
        }
    gains = {precision: [round(value, 2) for value in gain(rows[precision], "kd")] for precision in PRECISIONS}
    print(json.dumps({**figures, "kd_gain": gains, "teacher": teacher, "seeds": options.seeds,
                      "native_bfloat16": torch.cpu._is_avx512_bf16_supported()}))  # fmt: skip


if __name__ == "__main__":
    main()
