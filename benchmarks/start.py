"""How long a worker takes from the claim of a job to its first step, with a warm engine.

    .venv/bin/python benchmarks/start.py [--jobs 5] [--pause 15]

A service as `retort up` starts it (SQLite, a folder as broker, one worker, a port and a data directory of its own) gets
one small job after the other: the digits, a fresh resnet8x4 that teaches a resnet8, one epoch. Between two jobs there
is a pause, for the next engine to import torch. The figures are seconds from the claim, as the job tells it, to the
moment in which the service shows the first step of training (the teacher's), asked for every 20 ms; the lines above
them say when each phase began, as the service wrote it down.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from _paced import machine

from retort.client import Retort
from worker.commands.embedded import embedded_service

POLL_SECONDS = 0.02
RECIPE = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet8x4", "teach": {"epochs": 1}},
    "student": {"architecture": "resnet8"},
    "methods": [{"name": "kd"}],
    "training": {"epochs": 1},
}
FIRST = "teaching"
"""The phase whose first step is waited for: the first that trains anything."""


def main() -> None:
    """Measure and print; the figures as one line of JSON last."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=5)
    parser.add_argument("--pause", type=float, default=15, help="seconds before each job")
    options = parser.parse_args()
    where = machine()
    with (
        tempfile.TemporaryDirectory(prefix="retort-start-") as folder,
        embedded_service(Path(folder)) as (url, key),
        Retort(url, key) as client,
    ):
        rows = [start(client, options.pause) for _ in range(options.jobs)]
    seconds = [row.pop("first step") for row in rows]
    for number, row in enumerate(rows):
        print(f"{seconds[number]:6.2f} s:  " + ", ".join(f"{name} {at:.2f}" for name, at in row.items()))
    median, worst = statistics.median(seconds), max(seconds)
    print(f"from the claim to the first step: median {median:.2f} s, worst {worst:.2f} s of {options.jobs} jobs")
    figures: dict[str, Any] = {"median_seconds": round(median, 3), "worst_seconds": round(worst, 3)}
    print(json.dumps(figures | {"jobs": options.jobs} | where))


def start(client: Retort, pause: float) -> dict[str, float]:
    """Seconds after its claim at which a job entered each phase, and at which its first step was seen."""
    time.sleep(pause)
    job = client.jobs.create(RECIPE)
    while not (job.phase == FIRST and job.progress is not None and (job.progress.step or 0) > 0):
        if job.terminal:
            raise SystemExit(f"the job ended before its first step was seen: {job.state}, {job.error}")
        time.sleep(POLL_SECONDS)
        job = client.jobs.get(job.id)
    seen = datetime.now(UTC)
    assert job.started_at is not None
    claimed = job.started_at
    while not job.terminal:
        time.sleep(10 * POLL_SECONDS)
        job = client.jobs.get(job.id)
    if job.state != "succeeded":
        raise SystemExit(f"the job {job.state}: {job.error}")
    phases = {
        event.phase or "": (event.at - claimed).total_seconds()
        for event in client.jobs.events(job.id)
        if event.kind == "phase" and event.at <= seen
    }
    return phases | {"first step": (seen - claimed).total_seconds()}


if __name__ == "__main__":
    main()
