"""One new file is a whole new task: validated, trained, evaluated, resumed and exported without an edit elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
TRAINING = {"epochs": 3, "batch_size": 32, "precision": "float32", "threads": 1}
RECIPE: dict[str, Any] = {
    "task": "digit_value",
    "dataset": {"name": "digits", "label_share": 0.2},
    "teacher": {"architecture": "resnet14", "teach": {**TRAINING, "epochs": 2}},
    "student": {"architecture": "resnet8"},
    "methods": [{"name": "fitnet"}, {"name": "at"}],
    "baseline": True,
    "require_teacher": 1000,
    "training": TRAINING,
}
PROGRAM = """
import json, sys
from retort.datasets.digits import Digits
from retort.recipe import Recipe
from retort.validation import validate

recipe = Recipe.model_validate(json.load(sys.stdin))
print(json.dumps([[problem.pointer, problem.detail] for problem in validate(recipe, Digits().facts(())).problems]))
"""
REBUILT = """
import json, sys
import torch
from pathlib import Path
from retort.datasets.digits import Digits
from retort.student import load_student

network, description = load_student(Path(sys.argv[1]))
split = Digits(label_share=0.2).load(()).test
with torch.no_grad():
    values = network(split.inputs(torch.arange(len(split))).float() / 255)[:, 0]
print(json.dumps([float((values.double() - split.targets).square().mean()), description]))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the library with the task's file in its folder."""
    folder = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "retort", folder / "retort", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).with_name("digit_value.py"), folder / "retort/tasks/")
    return folder


def python(tree: Path, *arguments: str, given: str = "") -> str:
    """Standard output of an interpreter that imports the copy."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tree, input=given, capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": str(tree)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def run(tree: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The directory of a whole run, and its records."""
    recipe, out = tree / "recipe.json", tree / "whole"
    recipe.write_text(json.dumps(RECIPE))
    said = python(tree, "-m", "retort.engine", str(recipe), str(out))
    return out, [json.loads(line) for line in said.splitlines()]


def problems(tree: Path, **changes: Any) -> list[list[str]]:
    found: list[list[str]] = json.loads(python(tree, "-c", PROGRAM, given=json.dumps({**RECIPE, **changes})))
    return found


def test_the_methods_that_serve_it_follow_from_what_they_read(tree: Path) -> None:
    assert problems(tree) == []
    assert problems(tree, methods=[{"name": "kd"}]) == [
        ["/students/0/methods/0", "kd: it reads logits, which networks of the task digit_value do not offer"]
    ]
    assert problems(tree, methods=[{"name": "crd"}]) == [
        ["/students/0/methods/0", "crd: it reads class labels, and the targets of the task digit_value are not classes"]
    ]


def test_what_means_nothing_for_it_is_refused(tree: Path) -> None:
    student = {"architecture": "resnet8", "labels": {"smoothing": 0.1}}
    assert ["/students/0/labels/smoothing", "smoothing means nothing for the task digit_value"] in problems(
        tree, student=student
    )
    assert problems(tree, require_teacher=-1) == [
        ["/require_teacher", "require_teacher is -1; squared_error is at least 0"]
    ]


def test_the_best_epoch_is_the_one_with_the_least_error(run: tuple[Path, list[dict[str, Any]]]) -> None:
    directory, records = run
    report = json.loads((directory / "artifacts/report.json").read_text())
    assert report["headline"] == "squared_error"
    for name in ("student", "baseline"):
        errors = [
            record["values"]["validation.squared_error"]
            for record in records
            if record.get("kind") == "evaluation" and record["network"] == name and record["phase"] == "distilling"
        ]
        (row,) = [row for row in report["networks"] if row["name"] == name]
        assert len(errors) == TRAINING["epochs"]
        assert row["best_epoch"] == 1 + errors.index(min(errors))


def test_what_is_shipped_is_what_was_reported(tree: Path, run: tuple[Path, list[dict[str, Any]]]) -> None:
    import onnxruntime

    directory, _ = run
    files = directory / "artifacts"
    error, description = json.loads(python(tree, "-c", REBUILT, str(files / "student.json")))
    assert description["task"] == "digit_value"
    assert description["unit"] == "digit"
    assert error == pytest.approx(description["test"]["squared_error"], rel=1e-5)
    session = onnxruntime.InferenceSession(files / "student.onnx", providers=["CPUExecutionProvider"])
    (values,) = session.run(None, {"images": np.zeros((3, 3, 8, 8), np.float32)})
    assert values.shape == (3, 1)


def test_resumed_it_ends_with_the_same_bits(tree: Path, run: tuple[Path, list[dict[str, Any]]]) -> None:
    recipe, out = tree / "resumed.json", tree / "resumed"
    # The student alone: what is trained beside it, and what is exported, changes none of its bits.
    recipe.write_text(json.dumps(RECIPE | {"baseline": False, "exports": [{"name": "safetensors"}]}))
    command = [sys.executable, "-m", "retort.engine", str(recipe), str(out), "--checkpoint-seconds", "0"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    with subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True) as engine:
        assert engine.stdout is not None
        for line in engine.stdout:
            record = json.loads(line)
            if record["line"] == "checkpoint" and record["phase"] == "distilling" and record["step"] == 5:
                engine.kill()
                break
    python(tree, *command[1:])

    def digest(directory: Path) -> str:
        return sha256((directory / "artifacts/student.safetensors").read_bytes()).hexdigest()

    assert digest(out) == digest(run[0])
