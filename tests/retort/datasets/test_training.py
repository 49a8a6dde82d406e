"""Whole runs of the engine on a published set, in memory and streamed."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from retort.datasets import _pictures
from retort.engine.__main__ import carry_out
from retort.engine.event_log import EventLog
from retort.engine.interrupt import FINISHED, IMPOSSIBLE, Interrupt
from retort.kinds import DISTILL
from retort.order import Order, Paths
from tests.retort.datasets.published import mit67


def run(folder: Path, directory: Path, **dataset: object) -> tuple[int, list[str], str]:
    """The exit code, the texts of the event log, and the student's sha256 if there is one."""
    training = {"epochs": 2, "batch_size": 16, "precision": "float32", "threads": 1}
    recipe = {
        "dataset": {"name": "mit67", "path": str(folder), "image_size": 16} | dataset,
        "students": [{"name": "student", "architecture": "resnet8"}],
        "training": training,
        "exports": [{"name": "safetensors"}],
    }
    directory.mkdir()
    checkpoints = directory / "checkpoints"
    paths = Paths(directory=directory, checkpoints=checkpoints, weights=directory, data_roots=(folder,))
    with (directory / "log.jsonl").open("wb") as out:
        code = carry_out(Order(kind=DISTILL, spec=recipe, paths=paths), EventLog(out.fileno()), Interrupt())
    texts = [json.loads(line).get("text") for line in (directory / "log.jsonl").read_text().splitlines()]
    made = directory / "artifacts" / "student.safetensors"
    return code, [text for text in texts if text], sha256(made.read_bytes()).hexdigest() if made.exists() else ""


def test_a_student_of_streamed_images_is_that_of_images_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mit67(tmp_path / "set")
    code, texts, student = run(folder, tmp_path / "memory")
    monkeypatch.setattr(_pictures, "MEMORY_SHARE", 0.0)
    assert run(folder, tmp_path / "streamed") == (code, texts, student)
    assert code == FINISHED
    assert len(student) == 64


def test_a_warning_says_that_the_best_epoch_is_chosen_on_the_test_split(tmp_path: Path) -> None:
    code, texts, _ = run(mit67(tmp_path / "set"), tmp_path / "run", validation_share=0)
    assert code == FINISHED
    assert any(text.startswith("the test split is the validation split too") for text in texts)


def test_a_photograph_that_ends_too_soon_ends_the_run_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pictures, "MEMORY_SHARE", 0.0)
    folder = mit67(tmp_path / "set")
    broken = folder / "Images" / "kitchen" / "room 3.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    code, texts, student = run(folder, tmp_path / "run")
    assert code == IMPOSSIBLE
    assert student == ""
    assert "images cannot be read: kitchen/room 3.jpg (" in texts[-1]
