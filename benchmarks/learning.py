"""What each method adds when labelled images are few: student minus baseline on the digits, over ten seeds.

    .venv/bin/python benchmarks/learning.py [--methods kd,dkd] [--seeds 10] [--write docs/learning.json]

All methods with their defaults train side by side, a student each, with the one without methods. Then each trains
alone in a process of its own, in turns with `kd`, for the time of its epochs and the most memory that the process
held. Figures are test accuracy of the epoch that was best on validation, as shipped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _few_labels import STUDENT, TEACHER, distil, gain, recipe_of, teach

from worker.methods import METHODS
from worker.recipe import BASELINE_NAME

AT_ONCE = 12
"""Students of one recipe: more would only hold more memory."""


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", default=",".join(METHODS), help="names, comma between")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--write", type=Path, help="a file that takes the figures over; those of other methods stay")
    options = parser.parse_args()
    names = options.methods.split(",")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        teacher = teach(folder)
        rows: list[dict[str, float]] = [{} for _ in range(options.seeds)]
        for first in range(0, len(names), AT_ONCE):
            students = {name: [{"name": name}] for name in names[first : first + AT_ONCE]}
            for seed, row in enumerate(rows):
                row |= distil(folder, students, seed)
        costs = {name: cost(folder, name) for name in dict.fromkeys(["kd", *names])}
    figures = {
        name: {
            "gain_points": round(gain(rows, name)[0], 2),
            "interval_points": round(gain(rows, name)[1], 2),
            "seconds_over_kd": round(costs[name][0] / costs["kd"][0], 2),
            "memory_over_kd": round(costs[name][1] / costs["kd"][1], 2),
        }
        for name in names
    }
    for name, row in sorted(figures.items(), key=lambda item: -item[1]["gain_points"]):
        print(f"{name:20} {row['gain_points']:+6.2f} +- {row['interval_points']:.2f}  {row['seconds_over_kd']:5.2f}")
    baseline = sum(row[BASELINE_NAME] for row in rows) / len(rows)
    facts = {
        "teacher": TEACHER,
        "student": STUDENT,
        "teacher_accuracy": teacher,
        "baseline_accuracy": round(baseline, 4),
        "seeds": options.seeds,
    }
    if options.write:
        old = json.loads(options.write.read_text())["methods"] if options.write.exists() else {}
        merged = {name: (old | figures)[name] for name in sorted(old | figures) if name in METHODS}
        options.write.write_text(json.dumps(facts | {"methods": merged}, indent=1) + "\n")
    print(json.dumps(facts | {"methods": figures, "seconds": round(time.monotonic() - started)}))


def cost(folder: Path, method: str) -> tuple[float, float]:
    """Seconds of distilling and the most memory in bytes of a process that trains one student by that method."""
    directory = folder / f"cost_{method}"
    directory.mkdir()
    recipe: dict[str, Any] = recipe_of({method: [{"name": method}]}, seed=0)
    (directory / "recipe.json").write_text(json.dumps(recipe | {"baseline": False}))
    command = [sys.executable, "-m", "worker.engine", "recipe.json", ".", "--weights", str(folder / "weights")]
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
