"""A small real task that is not saturated: the digits with a tenth of the labels, taught by a network that had all.

A teacher is taught once on the whole training part. Each seed then trains small networks on a tenth of it, side by
side: same initialisation, same images in the same order.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from worker.engine.diary import Diary
from worker.engine.interrupt import Interrupt
from worker.engine.run import Place, Run
from worker.recipe import BASELINE_NAME, Recipe

TEACHER, STUDENT = "resnet8x4", "resnet8"
AUGMENTATION = {"crop_padding": 1}
LABEL_SHARE = 0.1
EPOCHS, BATCH_SIZE = 60, 32


def teach(folder: Path) -> float:
    """Teach the teacher, for `distil` to find in the same folder; returns its test accuracy."""
    recipe = {
        "dataset": {"name": "digits"},
        "teacher": {
            "architecture": TEACHER,
            "teach": {"epochs": 30, "threads": 1, "warmup_epochs": 1, "augmentation": AUGMENTATION},
        },
        "student": {"architecture": STUDENT},  # a recipe needs one; it is thrown away
        "training": {"epochs": 1, "threads": 1},
        "exports": [{"name": "safetensors"}],
    }
    report = _run(recipe, folder / "job_teacher", Path())
    weights = folder / "weights/job_teacher"
    weights.parent.mkdir()
    weights.symlink_to(folder / "job_teacher/artifacts")
    return report["teacher"]


def distil(folder: Path, students: Mapping[str, Iterable[dict[str, Any]]], seed: int) -> dict[str, float]:
    """Train a student for each name with its methods, and one without any.

    Returns test accuracy by name, of the epoch that was best on validation, as shipped.
    """
    names = "-".join(students)[:80]
    return _run(recipe_of(students, seed), folder / f"job_{seed}_{names}", folder / "weights")


def recipe_of(students: Mapping[str, Iterable[dict[str, Any]]], seed: int) -> dict[str, Any]:
    """A student for each name with its methods, and one without any."""
    return {
        "dataset": {"name": "digits", "label_share": LABEL_SHARE},
        "teacher": {"architecture": TEACHER, "weights": {"job": "job_teacher", "network": "teacher"}},
        "students": [
            {"name": name, "architecture": STUDENT, "seed": seed, "methods": list(methods)}
            for name, methods in students.items()
        ],
        "baseline": True,
        "training": {
            "epochs": EPOCHS,
            "threads": 1,
            "batch_size": BATCH_SIZE,
            "warmup_epochs": 2,
            "data_seed": seed,
            "augmentation": AUGMENTATION,
        },
        "exports": [{"name": "safetensors"}],
    }


def gain(rows: Iterable[Mapping[str, float]], name: str) -> tuple[float, float]:
    """Mean difference to the baseline over the seeds, in points, and half the width of its 95 % interval (Student)."""
    differences = [100 * (row[name] - row[BASELINE_NAME]) for row in rows]
    spread = statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences), float(student_t.ppf(0.975, len(differences) - 1)) * spread


def _run(recipe: dict[str, Any], directory: Path, weights: Path) -> dict[str, float]:
    place = Place(directory, directory / "checkpoints", weights, (), "1", checkpoint_seconds=1e9)
    with Path(os.devnull).open("wb") as nowhere:
        Run(Recipe.model_validate(recipe), place, Diary(nowhere.fileno()), Interrupt())()
    report = json.loads((directory / "artifacts/report.json").read_text())
    return {row["name"]: row["test"][report["ship"]]["test.accuracy"] for row in report["networks"]}
