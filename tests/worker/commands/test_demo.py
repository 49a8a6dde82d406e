"""The whole way: a service with a worker, a real distillation, the student on this machine."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import worker.commands.demo
import worker.commands.proof
from retort.cli.main import app
from retort.client import Retort
from retort.recipe import Recipe
from tests.conftest import wait_until
from tests.up import Up
from worker.commands.demo import read_recipe
from worker.commands.proof import Proof, prove, read_report

README = Path(__file__).parents[3] / "README.md"
pytestmark = pytest.mark.slow


def test_the_demo_pairs_a_teacher_with_a_student_five_times_smaller() -> None:
    from retort.architectures import CARDS

    recipe = Recipe.model_validate(read_recipe())
    assert recipe.teacher is not None
    student, baseline = recipe.students
    assert [method.name for method in student.methods] == ["kd"]
    assert (baseline.architecture, baseline.methods) == (student.architecture, ())
    assert CARDS[recipe.teacher.architecture].parameters(10) >= 5 * CARDS[student.architecture].parameters(10)


def short_recipe() -> dict[str, Any]:
    """The demo's recipe, over in seconds."""
    recipe = read_recipe()
    brief = {**recipe["training"], "epochs": 2}
    return {**recipe, "teacher": {"architecture": "resnet8x4", "teach": brief}, "training": brief}


def test_the_demo_runs_all_parts_and_proves_what_came_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RETORT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(worker.commands.demo, "read_recipe", short_recipe)
    monkeypatch.setattr(worker.commands.proof, "TIMED", 20)
    result = CliRunner().invoke(app, ["demo", "--to", str(tmp_path / "files")])
    assert result.exit_code == 0, result.output
    proofs = prove(tmp_path / "files", short_recipe(), read_report(tmp_path / "files"))
    assert [proof.role for proof in proofs] == ["teacher", "student", "baseline"]
    assert all(proof.holds for proof in proofs)
    assert [proof.onnx is None for proof in proofs] == [True, False, False]
    for proof in proofs:
        row = next(line for line in result.stdout.splitlines() if line.strip().startswith(proof.role))
        assert f"{proof.reported} of 360" in row
        assert f"{proof.reported / 360:.2%}" in row
    refuses_what_was_changed(tmp_path / "files", proofs)


def refuses_what_was_changed(folder: Path, proofs: list[Proof]) -> None:
    """A report that claims one image more is found out, and so is a file with other weights."""
    report = read_report(folder)
    report["networks"][1]["test"][report["ship"]]["test.correct"] += 1
    assert not prove(folder, short_recipe(), report)[1].holds
    (folder / "student.onnx").write_bytes((folder / "baseline.onnx").read_bytes())
    (folder / "student.safetensors").write_bytes((folder / "baseline.safetensors").read_bytes())
    swapped = prove(folder, short_recipe(), read_report(folder))[1]
    assert (swapped.rebuilt, swapped.onnx) == (proofs[2].reported, proofs[2].reported)
    assert not replace(proofs[1], onnx=proofs[1].reported + 1).holds


def readme_session() -> str:
    """The curl session that the README shows."""
    found = re.search(r"tests/worker/commands/test_demo\.py -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert found
    return found[1]


def test_the_session_of_the_readme_runs_as_it_stands(shared_up: Up, tmp_path: Path) -> None:
    environment = {**os.environ, "RETORT_URL": shared_up.url, "RETORT_DATA_DIR": str(shared_up.folder)}
    session = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", readme_session()], cwd=tmp_path, env=environment,
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert session.returncode == 0, session.stderr
    assert '"valid":true' in session.stdout
    assert "event: succeeded" in session.stdout
    with Retort(shared_up.url, shared_up.key) as client:
        (job,) = client.jobs.list(name="first try")
        onnx = next(file for file in client.jobs.artifacts(job.id) if file.name == "student.onnx")
    assert job.state == "succeeded"
    assert (tmp_path / "student.onnx").stat().st_size == onnx.size


def in_a_terminal(*words: str, environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and all that a person sees of a command, in a terminal of 140 columns."""
    near, far = pty.openpty()
    command = [sys.executable, "-m", "retort.cli.main", *words]
    process = subprocess.Popen(
        command, stdin=far, stdout=far, stderr=far, env={**os.environ, **environment, "COLUMNS": "140", "TERM": "xterm"}
    )
    os.close(far)
    shown = b""
    while True:
        try:
            data = os.read(near, 65536)
        except OSError:  # the terminal is gone with the last who wrote to it
            break
        shown += data
    os.close(near)
    return process.wait(60), shown.decode()


def test_a_terminal_shows_bars_and_the_final_table(shared_up: Up, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps(short_recipe()))
    environment = {"RETORT_URL": shared_up.url, "RETORT_KEY": shared_up.key}
    code, shown = in_a_terminal("submit", str(recipe), "--watch", "--set", "training.epochs=4", environment=environment)
    assert code == 0, shown
    for part in ("teaching teacher", "distilling student", "epoch ", "loss ", "examples/s", "test accuracy", "of 360"):
        assert part in shown, part


def test_a_running_job_is_cancelled(shared_up: Up) -> None:
    with Retort(shared_up.url, shared_up.key) as client:
        job = client.jobs.create({**short_recipe(), "training": {"epochs": 10_000, "threads": 1}})
        wait_until(lambda: client.jobs.get(job.id).phase == "teaching", "it runs", 60)
        assert client.jobs.cancel(job.id).wanted == "cancel"
        kinds = [event.kind for event in client.jobs.follow(job.id)]
        assert kinds[-1] == "cancelled"
        assert client.jobs.get(job.id).state == "cancelled"
