"""Estimates against truth: what some steps say of a whole run."""

import json
import time
from pathlib import Path

import pytest

from retort.engine.estimate import Estimation
from retort.engine.event_log import EventLog
from retort.engine.interrupt import Interrupt
from retort.estimate import Estimate
from retort.order import Paths
from tests.retort.engine.runs import recipe_of, run


def estimate(recipe: dict, folder: Path) -> dict:
    folder.mkdir()
    paths = Paths(directory=folder, checkpoints=folder / "checkpoints", weights=folder, checkpoint_seconds=1e9)
    with (folder / "log").open("wb") as log:
        spec = Estimate.model_validate({"recipe": recipe})
        Estimation(spec, paths, EventLog(log.fileno()), Interrupt())()
    return json.loads((folder / "artifacts/report.json").read_text())


def test_an_estimate_is_near_what_the_whole_run_takes(tmp_path: Path) -> None:
    recipe = recipe_of({"name": "kd"}, epochs=8)
    recipe["teacher"]["teach"]["epochs"] = 8
    recipe["evaluation"] = {"every_epochs": 4}
    folder = tmp_path / "estimate"
    report = estimate(recipe, folder)
    begin = time.monotonic()
    ended = run(recipe, tmp_path / "whole")
    whole = time.monotonic() - begin
    if not whole / 4 < report["total_seconds"]["mean"] < whole * 4:
        # The machine may have been busy in one of the two alone.
        report = estimate(recipe, tmp_path / "again")

    assert [section["phase"] for section in report["sections"]] == ["teaching", "distilling"]
    steps = [line["step"] for line in ended.lines if line.get("kind") == "metrics"]
    assert [section["steps"] for section in report["sections"]] == [max(steps[:8]), max(steps[8:])]
    total = report["total_seconds"]
    assert total["low"] <= total["mean"] <= total["high"]
    parts = [section["seconds"]["mean"] for section in report["sections"]]
    assert report["testing_seconds"]["mean"] > 0
    assert report["exporting_seconds"] > 0
    rest = report["preparing_seconds"] + report["testing_seconds"]["mean"] + report["exporting_seconds"]
    assert total["mean"] == pytest.approx(sum(parts) + rest)
    # On a machine that others use, too.
    assert whole / 4 < total["mean"] < whole * 4
    written = {file.name: file.stat().st_size for file in (tmp_path / "whole/artifacts").glob("*.safetensors")}
    assert {name: pytest.approx(size, rel=0.01) for name, size in written.items()} == report["artifact_bytes"]
    # More than the weights of both networks and the momentum of the students', less than ten times those.
    memory = report["peak_bytes"]
    assert sum(written.values()) < memory["high"] - memory["low"] < 10 * sum(written.values())
    assert {file.name for file in (folder / "artifacts").iterdir()} == {"report.json"}
    assert not list((folder / "checkpoints").glob("*"))
    said = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
    assert {line["kind"] for line in said if line["line"] == "event"} <= {"phase", "report", "warning"}
