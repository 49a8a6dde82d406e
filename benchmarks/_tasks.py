"""Small real tasks that are not saturated, on which methods are compared over seeds.

A teacher is taught once. Each seed then trains small networks side by side: same initialisation, same images in the
same order.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from retort.engine.event_log import EventLog
from retort.engine.interrupt import Interrupt
from retort.engine.run import Run
from retort.order import Paths
from retort.recipe import BASELINE_NAME, Recipe

Students = Mapping[str, Iterable[dict[str, Any]]]
"""Methods of each student, by the student's name."""


@dataclass(frozen=True)
class Task:
    """Data, a pair of networks, and how both are trained."""

    teaching_data: dict[str, Any]
    data: dict[str, Any]
    teacher: str
    student: str
    teaching: dict[str, Any]
    training: dict[str, Any]
    data_root: Path | None = None

    def teach(self, folder: Path) -> float:
        """Teach the teacher, for `distil` to find in the same folder; returns its test accuracy."""
        recipe = {
            "dataset": self.teaching_data,
            "teacher": {"architecture": self.teacher, "teach": self.teaching},
            "student": {"architecture": self.student},  # a recipe needs one; it is thrown away
            "training": self.training | {"epochs": 1, "warmup_epochs": 0},
            "exports": [{"name": "safetensors"}],
        }
        report = self._run(recipe, folder / "job_teacher", Path())
        weights = folder / "weights/job_teacher"
        weights.parent.mkdir()
        weights.symlink_to(folder / "job_teacher/artifacts")
        return report["teacher"]

    def distil(self, folder: Path, students: Students, seed: int) -> dict[str, float]:
        """Train a student for each name with its methods, and one without any.

        Returns test accuracy by name, of the epoch that was best on validation, as shipped.
        """
        names = "-".join(students)[:80]
        return self._run(self.recipe(students, seed), folder / f"job_{seed}_{names}", folder / "weights")

    def recipe(self, students: Students, seed: int) -> dict[str, Any]:
        """A student for each name with its methods, and one without any."""
        return {
            "dataset": self.data,
            "teacher": {"architecture": self.teacher, "weights": {"job": "job_teacher", "network": "teacher"}},
            "students": [
                {"name": name, "architecture": self.student, "seed": seed, "methods": list(methods)}
                for name, methods in students.items()
            ],
            "baseline": True,
            "training": self.training | {"data_seed": seed},
            "exports": [{"name": "safetensors"}],
        }

    def _run(self, recipe: dict[str, Any], directory: Path, weights: Path) -> dict[str, float]:
        roots = (self.data_root,) if self.data_root else ()
        paths = Paths(
            directory=directory,
            checkpoints=directory / "checkpoints",
            weights=weights,
            data_roots=roots,
            checkpoint_seconds=1e9,
        )
        with Path(os.devnull).open("wb") as nowhere:
            Run(Recipe.model_validate(recipe), paths, EventLog(nowhere.fileno()), Interrupt())()
        report = json.loads((directory / "artifacts/report.json").read_text())
        return {row["name"]: row["test"][report["ship"]]["test.accuracy"] for row in report["networks"]}


def digits() -> Task:
    """The digits with a tenth of the labels (126 training images), taught by a network that had all."""
    common = {"threads": 1, "augmentation": {"crop_padding": 1}}
    return Task(
        teaching_data={"name": "digits"},
        data={"name": "digits", "label_share": 0.1},
        teacher="resnet8x4",
        student="resnet8",
        teaching=common | {"epochs": 30, "warmup_epochs": 1},
        training=common | {"epochs": 60, "batch_size": 32, "warmup_epochs": 2},
    )


def small_photographs(folder: Path) -> Task:
    """A folder of images, brought to 32 pixels: a few classes of CIFAR, say."""
    data = {"name": "image_folder", "path": str(folder), "image_size": 32}
    common = {"threads": 1, "augmentation": {"crop_padding": 4, "flip": True}, "warmup_epochs": 1}
    return Task(
        teaching_data=data,
        data=data,
        teacher="resnet20",
        student="resnet8",
        teaching=common | {"epochs": 30},
        training=common | {"epochs": 20},
        data_root=folder,
    )


def gain(rows: Iterable[Mapping[str, float]], name: str) -> tuple[float, float]:
    """Mean difference to the baseline over the seeds, in points, and half the width of its 95 % interval (Student)."""
    differences = [100 * (row[name] - row[BASELINE_NAME]) for row in rows]
    spread = statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences), float(student_t.ppf(0.975, len(differences) - 1)) * spread
