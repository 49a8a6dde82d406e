"""Networks that do not learn are told while they are trained, in the report, and by the job's end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from retort.engine.interrupt import FINISHED, IMPOSSIBLE, STOPPED, STUDENTS_FAILED
from retort.engine.learning import AT_CHANCE, EXPLODES, NO_CHANGE, NO_GRADIENT, LearningWatch, at_chance
from retort.engine.report import _advice
from retort.task import Chance
from retort.tasks import TASKS
from tests.retort.engine.runs import PRECISIONS, recipe_of
from tests.retort.engine.test_finish import after_step, attempt, ended, report

TASK = TASKS["classification"]
KD = {"name": "kd"}


def watched(rate: float = 0.1) -> tuple[nn.Module, torch.optim.Optimizer, LearningWatch]:
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD([{"params": layer.parameters(), "rate": rate}], lr=rate)
    return layer, optimizer, LearningWatch("student", optimizer)


def take_epoch(watch: LearningWatch, optimizer: torch.optim.Optimizer, gradient: float, loss: float = 2.0) -> list[str]:
    for parameter in optimizer.param_groups[0]["params"]:
        parameter.grad = torch.full_like(parameter, gradient)
    watch.before_step(torch.tensor(2.0, dtype=torch.float64))
    optimizer.step()
    return watch.end_epoch(loss, 1)


@pytest.mark.parametrize(("gradient", "rate", "loss", "sign"), [
    (1.0, 0.1, 2.0, None), (0.0, 0.1, 2.0, NO_GRADIENT), (1.0, 1e-30, 2.0, NO_CHANGE), (1.0, 0.1, 1e29, EXPLODES),
    (1.0, 0.1, -1e29, EXPLODES), (1.0, 0.1, 1900.0, None),
])  # fmt: skip
def test_each_sign_is_told_once(gradient: float, rate: float, loss: float, sign: str | None) -> None:
    _, optimizer, watch = watched(rate)
    said = [take_epoch(watch, optimizer, gradient, loss) for _ in range(3)]
    assert [*watch.signs] == ([] if sign is None else [sign])
    assert [len(sentences) for sentences in said] == [sign is not None, 0, 0]


def test_a_sign_is_not_told_again_by_a_run_that_is_resumed() -> None:
    _, optimizer, watch = watched()
    assert take_epoch(watch, optimizer, 0.0)
    _, other_optimizer, resumed = watched()
    resumed.load(watch.state())
    assert take_epoch(resumed, other_optimizer, 0.0) == []
    assert resumed.signs == watch.signs


def test_chance_comes_and_goes() -> None:
    _, _, watch = watched()
    chance = TASK.chance(torch.tensor([0] * 30 + [1] * 70))
    assert chance == Chance(0.7, "guessing the most frequent class", pytest.approx(math.sqrt(0.7 * 0.3 / 100)))
    assert watch.evaluated(TASK, 0.7, chance, 3) == [
        "student is no better than chance: its accuracy on the validation split is 0.7000, and guessing the most "
        "frequent class gives 0.7000 (epoch 3)"
    ]
    assert watch.evaluated(TASK, 0.6, chance, 4) == []
    assert watch.evaluated(TASK, 0.9, chance, 5) == []
    assert AT_CHANCE not in watch.signs
    (said,) = watch.evaluated(TASK, 0.75, chance, 6)
    assert "is not clearly better than chance" in said


def test_chance_is_a_bound_from_below_where_more_is_better_and_from_above_where_less_is(monkeypatch) -> None:
    chance = Chance(0.5, "", 0.1)
    assert [at_chance(TASK, value, chance, 1) for value in (0.4, 0.6, 0.61)] == [True, True, False]
    monkeypatch.setattr(type(TASK), "headline", type(TASK.headline)("error", more_is_better=False))
    assert [at_chance(TASK, value, chance, 1) for value in (0.39, 0.41, 0.6)] == [False, True, True]


def untrained(precision: str = "float32", epochs: int = 1) -> dict:
    """Nothing trains the student, which stays as it was drawn."""
    asked = recipe_of({"name": "kd", "weight": 0}, precision=precision, epochs=epochs)
    asked["students"][0]["labels"] = {"weight": 0}
    return asked


def wild(name: str, *methods: dict) -> dict:
    """A student whose loss is no finite number after a few steps, in whatever arithmetic."""
    explosive = {"name": "cat_kd", "weight": 1_000_000}
    return {"name": name, "architecture": "resnet8", "labels": {"weight": 1}, "methods": [explosive, *methods]}


def said(directory: Path, kind: str = "warning") -> list[dict]:
    return [line for line in ended(directory).lines if line.get("kind") == kind]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_student_at_chance_fails_the_job_and_keeps_its_files(tmp_path: Path, precision: str) -> None:
    directory = tmp_path / "a"
    assert attempt(untrained(precision), directory) == STUDENTS_FAILED
    while_it_happens = [line for line in said(directory) if line["phase"] == "distilling"]
    assert [(line["network"], line["step"]) for line in while_it_happens] == [("student", 4)] * 2
    sentence, sign = report(directory)["warnings"]
    assert " than chance: its accuracy on the test split is " in sentence
    assert sign == while_it_happens[0]["text"]
    assert next(iter(report(directory))) == "warnings"
    assert report(directory)["chance"] == pytest.approx(37 / 360)
    (failed,) = said(directory, "failed")
    assert failed["text"] == (
        f"{sentence}; give labels.weight, or the weights of the methods, numbers above 0, or set "
        "fail_if_worse_than_chance to false to let such a job succeed; the files are kept"
    )
    listed = {file["name"] for file in json.loads((directory / "artifacts.json").read_text())}
    assert {"student.safetensors", "teacher.safetensors", "report.json"} <= listed


def test_the_recipe_may_let_it_succeed_and_so_does_a_stop(tmp_path: Path) -> None:
    assert attempt(untrained() | {"fail_if_worse_than_chance": False}, tmp_path / "lenient") == FINISHED
    assert report(tmp_path / "lenient")["warnings"]
    assert attempt(untrained(epochs=2), tmp_path / "stopped", finish=after_step(5)) == FINISHED


@pytest.mark.parametrize("precision", PRECISIONS)
def test_students_that_are_not_finite_leave_the_others_as_they_are(tmp_path: Path, precision: str) -> None:
    """One in the pass of the others, and one with a pass of its own."""
    calm = {"name": "calm", "architecture": "resnet8", "methods": [KD]}
    asked = recipe_of(precision=precision, epochs=2)
    several = asked | {"students": [wild("wild"), calm, wild("wilder", {"name": "kcd"})]}
    alone, beside, resumed = tmp_path / "alone", tmp_path / "beside", tmp_path / "resumed"
    assert attempt(asked | {"students": [calm]}, alone) == FINISHED
    assert attempt(several, beside) == STUDENTS_FAILED
    assert ended(beside).digest("calm") == ended(alone).digest("calm")
    found = report(beside)
    assert (found["not_finite"], found["left_out"], found["stopped_early"]) == (["wild", "wilder"], [], False)
    assert [row["name"] for row in found["networks"]] == ["teacher", "calm"]
    lost = [line["text"] for line in said(beside) if "was not a finite number in step" in line["text"]]
    assert found["warnings"][:2] == lost
    assert said(beside, "failed")[0]["text"].startswith("; ".join(lost))
    if precision == "float32":
        assert attempt(several, resumed, stop=after_step(6)) == STOPPED
        assert attempt(several, resumed) == STUDENTS_FAILED
        assert report(resumed) == found
        assert ended(resumed).digest("calm") == ended(alone).digest("calm")
        assert {line["text"] for line in said(resumed)} == {line["text"] for line in said(beside)}


def test_where_no_student_is_left_the_job_is_impossible(tmp_path: Path) -> None:
    asked = recipe_of(epochs=1) | {"students": [wild("wild"), wild("wilder", {"name": "kcd"})]}
    assert attempt(asked, tmp_path / "a") == IMPOSSIBLE
    assert said(tmp_path / "a", "failed")[0]["text"].startswith("wilder: ")
    assert not (tmp_path / "a/artifacts").exists()


def test_a_teacher_at_chance_is_told_before_the_first_step(tmp_path: Path) -> None:
    """One that was taught in vain, and the same as one that came trained."""
    asked = recipe_of(KD, epochs=1)
    asked["teacher"]["teach"] |= {"optimizer": {"name": "sgd", "learning_rate": 1e-30}}
    assert attempt(asked, tmp_path / "taught") == FINISHED
    unchanged, chance, distilling = said(tmp_path / "taught")
    assert "no weight has changed in epoch 1" in unchanged["text"]
    assert distilling["text"] == f"{chance['text']}; distilling from it teaches nothing"
    (tmp_path / "came/job_1").mkdir(parents=True)
    for file in (tmp_path / "taught/artifacts").glob("teacher.*"):
        (tmp_path / "came/job_1" / file.name).symlink_to(file)
    architecture = asked["teacher"]["architecture"]
    asked["teacher"] = {"architecture": architecture, "weights": {"job": "job_1", "network": "teacher"}}
    assert attempt(asked, tmp_path / "came") == FINISHED
    (validating,) = said(tmp_path / "came")
    assert (validating["phase"], validating["network"]) == ("validating the teacher", "teacher")
    assert validating["text"].endswith("; distilling from it teaches nothing")


def test_the_advice_fits_the_sign() -> None:
    class Result:
        def __init__(self, *signs: str) -> None:
            self.signs = dict.fromkeys(signs, "")

    class Context:
        class recipe:  # noqa: N801
            class training:  # noqa: N801
                class optimizer:  # noqa: N801
                    learning_rate = 0.5

    begins = [
        ([Result()], "lower training.optimizer.learning_rate, which is 0.5, or the weights"),
        ([Result(NO_CHANGE)], "raise training.optimizer.learning_rate, which is 0.5, or set"),
        ([Result(NO_GRADIENT)], "give labels.weight"),
        ([Result(NO_CHANGE), Result(EXPLODES)], "lower training"),
        ([], "lower training.optimizer.learning_rate, which is 0.5, or the weights of the methods"),
    ]
    for failed, begin in begins:
        assert _advice(Context, failed).startswith(begin)
