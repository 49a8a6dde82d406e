"""What a teacher adds when labelled images are few: student minus baseline on the digits, over ten seeds.

    .venv/bin/python benchmarks/demo_gain.py

A teacher is taught once on the whole training part. Each seed then trains the same small network on a tenth of it,
with each method and without, side by side: same initialisation, same images in the same order. The figures are test
accuracy of the epoch that was best on validation, as shipped; the interval is Student's t at 95 % over the seeds.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from worker.engine.diary import Diary
from worker.engine.interrupt import Interrupt
from worker.engine.run import Place, Run
from worker.recipe import Recipe

SEEDS = range(10)
METHODS = ("kd", "nckd", "r2kd")
AUGMENTATION = {"crop_padding": 1}
LABEL_SHARE = 0.1


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        teacher = run(teacher_recipe(), Path(folder, "job_teacher"))["teacher"]
        weights = Path(folder, "weights/job_teacher")
        weights.parent.mkdir()
        weights.symlink_to(Path(folder, "job_teacher/artifacts"))
        rows = [run(recipe(seed), Path(folder, f"job_{seed}"), weights.parent) for seed in SEEDS]
    print(f"teacher (all labels): {teacher:.2%} of the test images")
    print("seed  baseline  " + "  ".join(f"{method:>8}" for method in METHODS))
    for seed, row in zip(SEEDS, rows, strict=True):
        print(f"{seed:4}  {row['baseline']:8.2%}  " + "  ".join(f"{row[method]:8.2%}" for method in METHODS))
    gains = dict(gains_over_baseline(rows))
    for method, (mean, half) in gains.items():
        print(f"{method}: {mean:+.2f} points over the baseline, 95 % interval {mean - half:+.2f} to {mean + half:+.2f}")
    baseline = statistics.mean(row["baseline"] for row in rows)
    print(
        json.dumps(
            {
                "teacher": teacher,
                "baseline": baseline,
                "label_share": LABEL_SHARE,
                "seeds": len(rows),
                "gain_points": {method: [round(mean, 2), round(half, 2)] for method, (mean, half) in gains.items()},
                "seconds": round(time.monotonic() - started),
            }
        )
    )


def gains_over_baseline(rows: list[dict[str, float]]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Mean difference to the baseline in points, and half the width of its 95 % interval, for each method."""
    for method in METHODS:
        differences = [100 * (row[method] - row["baseline"]) for row in rows]
        spread = statistics.stdev(differences) / len(differences) ** 0.5
        yield method, (statistics.mean(differences), float(student_t.ppf(0.975, len(differences) - 1)) * spread)


def teacher_recipe() -> dict[str, Any]:
    """Teaches the teacher; the recipe needs a student, which is thrown away."""
    return {
        "dataset": {"name": "digits"},
        "teacher": {
            "architecture": "resnet8x4",
            "teach": {"epochs": 30, "threads": 1, "warmup_epochs": 1, "augmentation": AUGMENTATION},
        },
        "student": {"architecture": "resnet8"},
        "training": {"epochs": 1, "threads": 1},
        "exports": [{"name": "safetensors"}],
    }


def recipe(seed: int) -> dict[str, Any]:
    """One seed: the same network with each method and without."""
    students = [
        {"name": method, "architecture": "resnet8", "seed": seed, "methods": [{"name": method}]} for method in METHODS
    ]
    return {
        "dataset": {"name": "digits", "label_share": LABEL_SHARE},
        "teacher": {"architecture": "resnet8x4", "weights": {"job": "job_teacher", "network": "teacher"}},
        "students": students,
        "baseline": True,
        "training": {
            "epochs": 60,
            "threads": 1,
            "batch_size": 32,
            "warmup_epochs": 2,
            "data_seed": seed,
            "augmentation": AUGMENTATION,
        },
        "exports": [{"name": "safetensors"}],
    }


def run(content: dict[str, Any], directory: Path, weights: Path = Path()) -> dict[str, float]:
    """Carry out a recipe; returns the shipped networks' test accuracy by name."""
    place = Place(directory, directory / "checkpoints", weights, (), "1", checkpoint_seconds=1e9)
    with Path(os.devnull).open("wb") as nowhere:
        Run(Recipe.model_validate(content), place, Diary(nowhere.fileno()), Interrupt())()
    report = json.loads((directory / "artifacts/report.json").read_text())
    return {row["name"]: row["test"][report["ship"]]["test.accuracy"] for row in report["networks"]}


if __name__ == "__main__":
    main()
