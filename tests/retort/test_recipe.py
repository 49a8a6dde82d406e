import json

import pytest
from pydantic import ValidationError

from retort.recipe import Recipe

STUDENT = {"architecture": "resnet8"}
TEACHER = {"architecture": "resnet20", "teach": {}}
PLAIN = {"dataset": {"name": "digits"}, "student": STUDENT}
KD = {**PLAIN, "teacher": TEACHER, "methods": [{"name": "kd"}]}


def refused(recipe):
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(recipe)
    (error,) = caught.value.errors()
    return error["loc"], error["msg"]


def test_shorthand_and_list_are_one_recipe():
    long = {**PLAIN, "teacher": TEACHER, "students": [{**STUDENT, "methods": [{"name": "kd"}]}]}
    del long["student"]
    assert Recipe.model_validate(KD) == Recipe.model_validate(long)


@pytest.mark.parametrize("recipe", [PLAIN, KD, {**KD, "baseline": True}], ids=["plain", "kd", "baseline"])
def test_the_stored_form_reads_back_as_itself(recipe):
    once = Recipe.model_validate(recipe)
    stored = json.loads(once.model_dump_json())
    assert "student" not in stored
    assert "methods" not in stored
    assert Recipe.model_validate(stored) == once
    assert Recipe.model_validate_json(once.model_dump_json()) == once


def test_baseline_adds_a_student_without_methods():
    recipe = Recipe.model_validate({**KD, "student": {**STUDENT, "seed": 5}, "baseline": True})
    student, baseline = recipe.students
    assert baseline.name == "baseline"
    assert (baseline.architecture, baseline.seed, baseline.methods) == (student.architecture, 5, ())
    assert not recipe.baseline


def test_all_exports_are_made_unless_fewer_are_asked_for():
    assert {"safetensors", "onnx"} <= {export.name for export in Recipe.model_validate(PLAIN).exports}


@pytest.mark.parametrize(
    ("change", "where", "says"),
    [
        ({"colour": "red"}, ("colour",), "Extra inputs"),
        ({"student": None}, (), "no student is given"),
        ({"students": [STUDENT]}, (), "both student and students"),
        ({"student": {"architecture": "resnet9"}}, ("student", "architecture"), "no architecture 'resnet9'; did you"),
        ({"training": {"epochs": 0}}, ("training", "epochs"), "greater than or equal to 1"),
        (
            {"training": {"epochs": 5, "warmup_epochs": 5}},
            ("training",),
            "warmup_epochs is 5; it must be less than epochs, which is 5",
        ),
        ({"training": {"epochs": 100, "schedule": {"name": "steps"}}}, ("training",), "must rise and be less than"),
        ({"training": {"optimizer": {"name": "sgd", "learning_rate": float("nan")}}}, None, "finite"),
        ({"teacher": {"architecture": "resnet20"}}, ("teacher",), "neither weights nor teach"),
        ({"methods": [{"name": "kd"}]}, (), "method kd of student 'student' needs a teacher; teacher is null"),
        ({"student": {**STUDENT, "name": "teacher"}}, (), "that is the teacher's"),
        ({"student": {**STUDENT, "name": "../x"}}, ("student", "name"), "match pattern"),
        ({"exports": []}, ("exports",), "at least 1"),
        ({"exports": [{"name": "onnx"}, {"name": "onnx"}]}, (), "an export stands twice"),
        ({"tags": ["a b"]}, ("tags", 0), "match pattern"),
        ({"recipe_version": 2}, ("recipe_version",), "should be 1"),
    ],
)
def test_bad_recipes_are_refused_where_they_are_bad(change, where, says):
    if where is None:
        with pytest.raises(ValidationError, match=says):
            Recipe.model_validate(PLAIN | change)
        return
    loc, message = refused(PLAIN | change)
    assert says in message
    assert loc == where


@pytest.mark.parametrize(
    ("augmentation", "where", "says"),
    [
        (
            {"crop_padding": 4, "resized_crop": {}},
            (),
            "crop_padding is 4 and resized_crop is given too; one crop at most",
        ),
        ({"resized_crop": {"area": [0.5, 0.2]}}, ("resized_crop", "area"), "the range is [0.5, 0.2]; its first number"),
        ({"resized_crop": {"area": [0.0, 0.2]}}, ("resized_crop", "area", 0), "greater than 0"),
        ({"resized_crop": {"ratio": [0.0, 0.2]}}, ("resized_crop", "ratio", 0), "greater than or equal to 0.01"),
        ({"erasing": {"ratio": [3, 2]}}, ("erasing", "ratio"), "must not exceed its second"),
        ({"erasing": {"probability": 1.5}}, ("erasing", "probability"), "less than or equal to 1"),
        ({"cutout": 0}, ("cutout",), "greater than 0"),
        ({"policy": {"name": "augmix"}}, ("policy",), "'randaugment', 'autoaugment', 'trivialaugment'"),
        ({"policy": {"name": "randaugment", "magnitude": 31}}, ("policy", "randaugment", "magnitude"), "equal to 30"),
        ({"mix": {"name": "mixup", "alpha": 0}}, ("mix", "mixup", "alpha"), "greater than 0"),
    ],
    ids=str,
)
def test_bad_augmentations_are_refused_where_they_are_bad(augmentation, where, says):
    loc, message = refused({**PLAIN, "training": {"augmentation": augmentation}})
    assert says in message
    assert loc == ("training", "augmentation", *where)


def test_methods_without_their_student():
    recipe = {"dataset": {"name": "digits"}, "methods": [{"name": "kd"}], "students": [STUDENT]}
    assert "methods at the top belong to student" in refused(recipe)[1]


def test_two_students_of_one_name():
    recipe = {"dataset": {"name": "digits"}, "students": [STUDENT, STUDENT]}
    assert refused(recipe)[1] == "two students are named 'student'; names must differ"


def test_a_method_stands_once_in_a_student():
    recipe = {**KD, "methods": [{"name": "kd"}, {"name": "kd", "temperature": 2}]}
    assert "method kd stands twice" in refused(recipe)[1]


def test_every_field_has_a_text():
    def fields(schema):
        for name, field in schema.get("properties", {}).items():
            if name not in {"name", "kind"}:
                yield name, field

    schema = Recipe.model_json_schema()
    bare = [
        f"{title}.{name}"
        for title, part in {"Recipe": schema, **schema["$defs"]}.items()
        for name, field in fields(part)
        if "description" not in field
    ]
    assert bare == []


def test_compression_is_a_list_of_steps_or_the_precision_of_the_weights_alone() -> None:
    def steps(sent: object) -> list[str]:
        return [step.name for step in Recipe.model_validate(PLAIN | {"compression": sent}).compression]

    assert steps({}) == steps({"weights": "float32"}) == steps([]) == []
    assert steps({"weights": "float16"}) == ["float16"]
    assert steps([{"name": "float16"}, {"name": "quantize"}]) == ["float16", "quantize"]
    for wrong, sentence in (
        ({"weights": "int8"}, "compression is a list of steps"),
        ({"name": "quantize"}, "compression is a list of steps"),
        ([{"name": "quantize"}, {"name": "quantize"}], "a step stands twice"),
        ([{"name": "quantise"}], "'float16', 'quantize'"),
    ):
        with pytest.raises(ValidationError, match=sentence):
            steps(wrong)
