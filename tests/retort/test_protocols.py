"""Protocols are shorthand: the recipe that is stored holds what they set, and what the sender gave stands over it."""

import json
from typing import get_args

import pytest
from pydantic import ValidationError

from retort.protocols import PROTOCOLS
from retort.recipe import SGD, Constant, Cosine, Recipe, Steps
from retort.validation import resolve

KD = {
    "dataset": {"name": "cifar100", "path": "/data"},
    "teacher": {"architecture": "resnet32x4", "teach": {}},
    "student": {"architecture": "resnet8x4"},
    "methods": [{"name": "kd"}],
}


def recipe(protocol="cifar100", **more):
    return Recipe.model_validate({**KD, "protocol": protocol, **more})


PUBLISHED = {
    "cifar100": {"epochs": 240, "batch": 64, "rate": 0.05, "decay": 5e-4, "falls": (150, 180, 210), "padding": 4},
    "imagenet": {"epochs": 100, "batch": 512, "rate": 0.2, "decay": 1e-4, "falls": (30, 60, 90), "padding": 0},
    "tiny_imagenet": {"epochs": 240, "batch": 64, "rate": 0.05, "decay": 5e-4, "falls": (150, 180, 210), "padding": 8},
}


def test_the_field_names_every_protocol():
    (names, _) = get_args(Recipe.model_fields["protocol"].annotation)
    assert set(get_args(names)) == set(PROTOCOLS) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_sets_what_was_published(name):
    wanted, made = PUBLISHED[name], recipe(name)
    for training in (made.training, made.teacher.teach):
        assert (training.epochs, training.batch_size, training.warmup_epochs) == (wanted["epochs"], wanted["batch"], 0)
        assert training.optimizer == SGD(
            learning_rate=wanted["rate"], momentum=0.9, nesterov=False, weight_decay=wanted["decay"]
        )
        assert training.schedule == Steps(milestones=wanted["falls"], factor=0.1)
        augmentation = training.augmentation
        assert augmentation.flip
        assert augmentation.crop_padding == wanted["padding"]
        assert (augmentation.resized_crop is None) == bool(wanted["padding"])
        assert (augmentation.policy, augmentation.erasing, augmentation.cutout, augmentation.mix) == (None,) * 4
    assert made.evaluation.ship == "last"
    assert made.students[0].labels.weight == "auto"


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_of_the_training_part_is_trained_on_unless_another_data_set_is_taken(name):
    whole = recipe(name, dataset={"name": name, "path": "/data"}).dataset
    assert whole.validation_share == 0
    assert (
        recipe(name, dataset={"name": name, "path": "/data", "validation_share": 0.2}).dataset.validation_share == 0.2
    )
    assert recipe(name, dataset={"name": "mnist", "path": "/data"}).dataset.validation_share == 0.1
    assert recipe(name, dataset={"name": "digits"}).dataset.name == "digits"


def test_the_stored_recipe_is_the_expanded_one_and_knows_no_protocol():
    made = recipe()
    stored = json.loads(made.model_dump_json())
    assert "protocol" not in stored
    assert stored["training"]["epochs"] == 240
    assert Recipe.model_validate(stored) == made
    assert Recipe.model_validate_json(json.dumps({**KD, "protocol": "cifar100"})) == made
    assert resolve(made).training.optimizer == made.training.optimizer


def test_what_is_given_stands_over_it():
    made = recipe(
        training={
            "epochs": 300,
            "optimizer": {"weight_decay": 1e-3},
            "augmentation": {"flip": False, "cutout": 0.5},
            "data_seed": 7,
        },
        evaluation={"every_epochs": 10},
    )
    assert (made.training.epochs, made.training.batch_size, made.training.data_seed) == (300, 64, 7)
    assert made.training.optimizer == SGD(learning_rate=0.05, weight_decay=1e-3)
    assert made.training.augmentation.model_dump(exclude_defaults=True) == {"crop_padding": 4, "cutout": 0.5}
    assert (made.evaluation.ship, made.evaluation.every_epochs) == ("last", 10)
    assert recipe(evaluation={"ship": "best"}).evaluation.ship == "best"


@pytest.mark.parametrize("schedule", [Cosine(), Constant()])
def test_another_optimizer_or_schedule_takes_the_place_of_its_own(schedule):
    training = {"optimizer": {"name": "adamw"}, "schedule": schedule.model_dump()}
    made = recipe(training=training, teacher={"architecture": "resnet32x4", "teach": training})
    for found in (made.training, made.teacher.teach):
        assert found.optimizer.name == "adamw"
        assert found.optimizer.learning_rate == "auto"
        assert found.schedule == schedule


def test_a_teacher_that_is_not_taught_is_left_as_it_is():
    known = {"architecture": "torchvision.resnet18", "weights": "published"}
    assert recipe(teacher=known).teacher.teach is None
    assert recipe(teacher=None, methods=None).teacher is None


@pytest.mark.parametrize(
    ("protocol", "architecture", "rate"),
    [
        ("cifar100", "mobilenet_v2_half", 0.01),
        ("cifar100", "torchvision.shufflenet_v2_x1_0", 0.01),
        ("tiny_imagenet", "torchvision.mobilenet_v2", 0.01),
        ("imagenet", "torchvision.mobilenet_v2", 0.2),
        ("cifar100", "torchvision.resnet18", 0.05),
    ],
)
def test_small_networks_learn_at_a_lower_rate(protocol, architecture, rate):
    made = recipe(protocol, student={"architecture": architecture}, baseline=True)
    assert made.training.optimizer.learning_rate == rate
    assert made.teacher.teach.optimizer.learning_rate == PUBLISHED[protocol]["rate"]
    listed = {"student": None, "methods": None, "students": [{"architecture": architecture}]}
    assert recipe(protocol, **listed).training.optimizer.learning_rate == rate


TWO = {
    "student": None,
    "methods": None,
    "students": [
        {"name": "a", "architecture": "resnet8x4"},
        {"name": "b", "architecture": "torchvision.mobilenet_v2"},
    ],
}


def test_students_of_different_rates_ask_for_a_number():
    with pytest.raises(ValidationError) as caught:
        recipe(**TWO)
    (error,) = caught.value.errors()
    assert error["msg"] == (
        "protocol cifar100 trains resnet8x4 at 0.05, torchvision.mobilenet_v2 at 0.01; "
        "give training.optimizer.learning_rate as a number"
    )
    assert error["ctx"]["field"] == "training/optimizer/learning_rate"
    assert recipe("imagenet", **TWO).training.optimizer.learning_rate == 0.2
    given = recipe(**TWO, training={"optimizer": {"learning_rate": 0.02}})
    assert given.training.optimizer == SGD(learning_rate=0.02)
    assert recipe(**TWO, training={"optimizer": {"name": "adamw"}}).training.optimizer.name == "adamw"


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        ({"protocol": "cifar"}, ("protocol",), "'cifar100', 'imagenet' or 'tiny_imagenet'"),
        ({"protocol": ["cifar100"]}, ("protocol",), "'cifar100', 'imagenet' or 'tiny_imagenet'"),
        ({"training": 5}, ("training",), "valid dictionary"),
        ({"training": {"optimizer": "sgd"}}, ("training", "optimizer"), "valid dictionary"),
        ({"training": {"epochs": 20}}, ("training",), "milestones are [150, 180, 210]; they must rise and be less"),
        ({"training": {"augmentation": {"resized_crop": {}}}}, ("training", "augmentation"), "crop_padding is 4 and"),
        ({"teacher": 3}, ("teacher",), "valid dictionary"),
        ({"dataset": "cifar100"}, ("dataset",), "valid dictionary"),
        ({"students": 3, "student": None, "methods": None}, ("students",), "valid tuple"),
        ({"student": {"architecture": 3}}, ("student", "architecture"), "valid string"),
    ],
)
def test_what_is_wrong_is_still_refused_where_it_is_wrong(change, where, says):
    with pytest.raises(ValidationError) as caught:
        recipe(**change)
    (error,) = caught.value.errors()
    assert says in error["msg"]
    assert error["loc"] == where
