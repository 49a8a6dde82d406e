"""States of version 0.1 have today's names after it, and its digests of recipes are computed again."""

import json

import pytest
import torch

from retort.engine.checkpoint import Checkpoints
from retort.engine.context import _deciding_json, recipe_digest
from retort.engine.version_1 import Version1
from retort.recipe import Recipe

TRAINING = {"precision": "float32", "threads": 1}
RECIPE = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet8x4", "teach": {"epochs": 2, **TRAINING}},
    "students": [{"name": "student", "architecture": "resnet8", "methods": [{"name": "kd"}]}],
    "training": {"epochs": 3, **TRAINING},
}
WITH_RENAMED_FIELDS = {
    **RECIPE,
    "name": "x",
    "tags": ["a"],
    "teacher": {"architecture": "resnet8x4", "teach": {"epochs": 2, "gradient_accumulation": 4, **TRAINING}},
    "require_teacher": 0.5,
    "students": [{**RECIPE["students"][0], "labels": {"weight": 0.5, "smoothing": 0.1}}],
    "baseline": True,
    "training": {
        "epochs": 3,
        **TRAINING,
        "gradient_accumulation": 2,
        "cache_teacher_outputs": False,
        "on_out_of_memory": "accumulate",
        "optimizer": {"name": "adamw"},
        "weight_average": {"decay": 0.99},
        "augmentation": {
            "mix": {"name": "mixup_or_cutmix"},
            "policy": {"name": "randaugment"},
            "erasing": {},
            "resized_crop": {"area": [0.5, 1.0]},
        },
    },
}
DIGESTS = [
    (RECIPE, "a7e3f56acd27f0061be9bf50270ee6ed54ced0dd12d68556924c37dd1b0a287b"),
    (WITH_RENAMED_FIELDS, "64db121e95bf247d3fe6f36cde47ad5927cef9d0a9bd3e4d323b601fb9b34053"),
]
"""Digests that version 0.1 gave the recipes, in its words."""

METRICS = {"kind": "metrics", "phase": "distilling", "student": "student", "step": 79, "values": {"student": 1.0}}
NETWORK, TERMS = {"conv1.weight": torch.ones(2)}, {"names": ["loss"], "steps": 3, "sums": torch.ones(1)}


def old_train_state(correct: int) -> dict:
    best = {"epoch": None if correct < 0 else 2, "correct": correct, "weights": NETWORK}
    return {"network": NETWORK, "modules": [{}], "optimizer": {}, "average": None, "best": best, "tally": TERMS}


def train_state(value: float | None) -> dict:
    best = {"epoch": None if value is None else 2, "weights": NETWORK, "value": value}
    return {"network": NETWORK, "modules": [{}], "optimizer": {}, "average": None, "best": best, "term_sums": TERMS}


OLD_STATE = {
    "section": "students [0]",
    "trainer": {"step": 173, "parts": 2, "learners": [old_train_state(169)]},
    "taught": {"last": NETWORK, "best": NETWORK, "epoch": 1},
    "said": {"distilling/student/metrics/79": json.dumps(METRICS)},
    "students": {"other": old_train_state(-1)},
    "networks": {"Paraphraser()": NETWORK},
}
STATE = {
    "section": "students [0]",
    "trainer": {"step": 173, "micro_batches": 2, "train_states": [train_state(169 / 180)]},
    "teacher": {"last": NETWORK, "best": NETWORK, "epoch": 1},
    "students": {"other": train_state(None)},
    "networks": {"Paraphraser()": NETWORK},
}


@pytest.mark.parametrize(("recipe", "digest"), DIGESTS, ids=["plain", "renamed fields"])
def test_a_recipe_has_the_digest_that_version_0_1_gave_it(recipe: dict, digest: str) -> None:
    read = Recipe.model_validate(recipe)
    assert Version1.of(_deciding_json(read), 180).recipe_digest == digest
    assert recipe_digest(read) != digest


def test_a_state_has_the_names_of_today() -> None:
    found = Version1("r", 180).upgrade(OLD_STATE)
    ((key, line),) = found.pop("events").items()
    assert found == STATE
    assert key == "distilling/student/metrics/79"
    assert json.loads(line) == {"network" if name == "student" else name: value for name, value in METRICS.items()}


def test_a_state_of_the_teacher_s_training_has_neither_students_nor_networks() -> None:
    old = {name: value for name, value in OLD_STATE.items() if name not in ("students", "networks")}
    found = Version1("r", 180).upgrade({**old, "section": "teaching", "taught": None})
    assert found.keys() == {"section", "trainer", "teacher", "events"}
    assert found["teacher"] is None


def test_a_checkpoint_of_format_1_is_one_of_version_0_1(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("retort.engine.checkpoint.FORMAT", "1")
    Checkpoints(tmp_path, "of version 0.1", "d", "1", 1e9).write(OLD_STATE)

    def newest(recipe: str, version_1: Version1 | None) -> dict | None:
        return Checkpoints(tmp_path, recipe, "d", "2", 1e9, version_1).newest(torch.device("cpu"))

    read = newest("of today", Version1("of version 0.1", 180))
    assert read is not None
    assert read["trainer"]["micro_batches"] == 2
    assert newest("of version 0.1", Version1("another", 180)) is None
    assert "made with another recipe" in capsys.readouterr().err
