"""The gain of each method when labelled images are few: student minus baseline on the digits, over ten seeds.

    .venv/bin/python benchmarks/learning.py [--methods kd,dkd] [--seeds 10] [--folder DIR] [--write docs/learning.json]

All methods with their defaults train side by side, a student each, with the one without methods. Then each trains
alone in a process of its own, in turns with `kd`, for the time of its epochs and the most memory that the process
held. Figures are test accuracy of the epoch that was best on validation, as shipped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _tasks import Task, digits, gain, small_photographs

from retort.engine.interrupt import Impossible
from retort.methods import METHODS
from retort.recipe import BASELINE_NAME

AT_ONCE = 12
"""Students of one recipe: more would only hold more memory."""
OTHER_TEACHERS = {"fsp": "resnet14"}
"""Teachers of methods that refuse the task's own: FSP's must be as wide as the student."""


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default=",".join(METHODS), help="names, comma between")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path, help="an image folder to train on instead of the digits")
    parser.add_argument("--only", choices=["gain", "cost"], help="measure one of the two")
    parser.add_argument("--write", type=Path, help="a file that takes the figures over; other figures in it stay")
    options = parser.parse_args()
    task = small_photographs(options.folder.resolve()) if options.folder else digits()
    names = options.methods.split(",")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        facts: dict[str, Any] = {"teacher": task.teacher, "student": task.student}
        facts["teacher_accuracy"] = task.teach(folder)
        figures: dict[str, dict[str, Any]] = {name: {} for name in names}
        if options.only != "cost":
            rows = train(task, folder, names, options.seeds)
            facts["baseline_accuracy"] = round(sum(row[BASELINE_NAME] for row in rows) / len(rows), 4)
            facts["seeds"] = options.seeds
            for name in names:
                whole = [row for row in rows if name in row]
                mean, half = gain(whole, name)
                figures[name] |= {"gain_points": round(mean, 2), "interval_points": round(half, 2)}
                figures[name] |= {"diverged": len(rows) - len(whole)}
        for name in OTHER_TEACHERS.keys() & figures.keys():
            figures[name]["teacher"] = OTHER_TEACHERS[name]
        if options.only != "gain":
            costs = {name: cost(task, folder, name) for name in dict.fromkeys(["kd", *names])}
            for name in names:
                seconds, memory = (ours / kds for ours, kds in zip(costs[name], costs["kd"], strict=True))
                figures[name] |= {"seconds_over_kd": round(seconds, 2), "memory_over_kd": round(memory, 2)}
    for name, row in figures.items():
        print(f"{name:20} " + "  ".join(f"{what} {value}" for what, value in row.items()))
    if options.write:
        write(options.write, facts, figures)
    print(json.dumps(facts | {"methods": figures, "seconds": round(time.monotonic() - started)}))


def train(task: Task, folder: Path, names: list[str], seeds: int) -> list[dict[str, float]]:
    """Test accuracy of a student by each method and of one by none, a row a seed; who diverged is left out of it."""
    rows: list[dict[str, float]] = [{} for _ in range(seeds)]
    usual = [name for name in names if name not in OTHER_TEACHERS]
    for first in range(0, len(usual), AT_ONCE):
        for seed, row in enumerate(rows):
            row |= survivors(task, folder, usual[first : first + AT_ONCE], seed)
    for name in OTHER_TEACHERS.keys() & set(names):
        task, other = dataclasses.replace(task, teacher=OTHER_TEACHERS[name]), folder / name
        other.mkdir()
        task.teach(other)
        for seed, row in enumerate(rows):
            row |= survivors(task, other, [name], seed)
    return rows


def survivors(task: Task, folder: Path, names: list[str], seed: int) -> dict[str, float]:
    """Train side by side; whose loss is no number any more ends the job, which is run again without it."""
    try:
        return task.distil(folder, {name: [{"name": name}] for name in names}, seed)
    except Impossible as error:
        name, _, reason = str(error).partition(": ")
        if name not in names or "no finite number" not in reason:
            raise
        print(f"seed {seed}: {error}", file=sys.stderr)
        return survivors(task, folder, [other for other in names if other != name], seed)


def write(file: Path, facts: dict[str, Any], figures: dict[str, dict[str, Any]]) -> None:
    """Take figures over into a file that may hold others."""
    old = json.loads(file.read_text()) if file.exists() else {"methods": {}}
    known = old["methods"]
    methods = {name: known.get(name, {}) | figures.get(name, {}) for name in sorted(known.keys() | figures.keys())}
    methods = {name: row for name, row in methods.items() if name in METHODS}
    file.write_text(json.dumps(old | facts | {"methods": methods}, indent=1) + "\n")


def cost(task: Task, folder: Path, method: str) -> tuple[float, float]:
    """Seconds of distilling and the most memory in bytes of a process that trains one student by that method."""
    directory = folder / f"cost_{method}"
    directory.mkdir()
    if method in OTHER_TEACHERS:
        task, folder = dataclasses.replace(task, teacher=OTHER_TEACHERS[method]), folder / f"for_{method}"
        folder.mkdir()
        task.teach(folder)
    recipe: dict[str, Any] = task.recipe({method: [{"name": method}]}, seed=0)
    (directory / "recipe.json").write_text(json.dumps(recipe | {"baseline": False}))
    command = [sys.executable, "-m", "retort.engine", "recipe.json", ".", "--weights", str(folder / "weights")]
    if task.data_root:
        command += ["--data-root", str(task.data_root)]
    process = subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.getcwd()}
    )
    assert process.stdout is not None
    since, seconds = 0.0, 0.0
    for line in process.stdout:
        event = json.loads(line)
        if event.get("kind") == "phase" and event["phase"] == "distilling":
            since = time.monotonic()
        elif event.get("kind") == "phase" and event["phase"] == "compressing":
            seconds = time.monotonic() - since
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{method} ended with {status}"
    return seconds, used.ru_maxrss * 1024


if __name__ == "__main__":
    main()
