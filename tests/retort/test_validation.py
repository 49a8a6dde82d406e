import pytest

from retort.architectures import CARDS
from retort.dataset import ImageClassFacts
from retort.method import MethodError
from retort.recipe import Recipe, Teacher
from retort.user_model import UserModel
from retort.validation import label_weight, resolve, validate

FACTS = ImageClassFacts(classes=10, class_names=tuple("0123456789"), image_size=8, train=1257, validation=180, test=360)


def recipe(*methods, teacher="resnet20", student="resnet8", **more):
    return Recipe.model_validate(
        {
            "dataset": {"name": "digits"},
            "teacher": {"architecture": teacher, "teach": {}},
            "student": {"architecture": student, **more.pop("fields", {})},
            "methods": [method if isinstance(method, dict) else {"name": method} for method in methods],
            **more,
        }
    )


@pytest.mark.parametrize(
    ("methods", "weight"), [((), 1.0), (("kd",), 0.1), (("r2kd",), 1.0), (("nckd",), 1.0), (("kd", "nckd"), 1.0)]
)
def test_auto_label_weight(methods, weight):
    assert label_weight(recipe(*methods).students[0]) == weight


def test_a_number_stands_over_auto():
    assert label_weight(recipe("kd", fields={"labels": {"weight": 0.5}}).students[0]) == 0.5


def test_methods_that_disagree_ask_for_a_number():
    mixed = recipe("kd", "r2kd")
    with pytest.raises(MethodError, match=r"kd 0\.1, r2kd 1.*labels\.weight as a number"):
        label_weight(mixed.students[0])
    (problem,) = validate(mixed, FACTS).problems
    assert problem.pointer == "/students/0/labels/weight"


def test_resolving_twice_changes_nothing():
    once = resolve(recipe("kd"))
    assert resolve(once) == once
    assert "auto" not in {once.training.optimizer.learning_rate, once.students[0].labels.weight}


def test_learning_rate_follows_the_batch():
    assert resolve(recipe(training={"batch_size": 256})).training.optimizer.learning_rate == pytest.approx(0.2)
    adamw = {"optimizer": {"name": "adamw"}, "batch_size": 256}
    assert resolve(recipe(training=adamw)).training.optimizer.learning_rate == 1e-3


def test_a_student_larger_than_its_teacher_is_odd_but_allowed():
    found = validate(recipe("kd", teacher="resnet8", student="resnet20"), FACTS)
    assert not found.problems
    assert "is larger than its teacher" in found.warnings[0]


def test_a_teacher_that_nobody_reads_is_odd():
    assert validate(recipe(), FACTS).warnings == ("a teacher is given, but no method reads it",)


def test_a_teacher_of_larger_images_than_the_data_is_odd():
    expects = {"channel_order": "rgb", "range": [0, 1], "mean": [0] * 3, "std": [1] * 3}
    fields = {"id": "model_1", "form": "safetensors", "architecture": "resnet20", "classes": 10, "class_names": None}

    augmented = {"training": {"augmentation": {"flip": True}}}

    def data(image_size):
        return FACTS.model_copy(update={"image_size": image_size, "train": 50_000})

    def warnings(size, image_size, **teacher):
        model = UserModel.model_validate(fields | {"expects": expects | {"size": size}, "warnings": ["it is odd"]})
        named = {"architecture": "resnet20", "model": "model_1"} | teacher
        one = recipe("kd", **augmented).model_copy(update={"teacher": Teacher.model_validate(named)})
        return validate(one, data(image_size), models={"model_1": model}).warnings

    assert warnings(224, 32)[0] == "the teacher (model_1): it is odd"
    assert warnings(224, 32)[2] == (
        "the teacher expects images of 224 pixels a side, and the data set's have 32: trained networks recognise "
        "little in enlarged images; give the data set image_size 224 if it has that field (the student may still see "
        "less)"
    )
    for size, image_size, count in ((224, 64, 3), (299, 224, 3), (32, 28, 2), (32, 32, 2), (32, 224, 2)):
        assert len(warnings(size, image_size)) == count
    assert len(warnings(224, 32, teach=augmented["training"])) == 2
    published = recipe("kd", teacher="torchvision.resnet18", **augmented)
    teacher = Teacher.model_validate({"architecture": "torchvision.resnet18", "weights": "published"})
    published = published.model_copy(update={"teacher": teacher})
    for size, count in ((32, 1), (224, 0)):
        assert len(validate(published, data(size)).warnings) == count


def test_nothing_to_learn_from():
    (problem,) = validate(recipe(fields={"labels": {"weight": 0}}), FACTS).problems
    assert "nothing would train it" in problem.detail


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"validation": 0}, "validation split is empty"),
        ({"classes": 1, "class_names": ("a",)}, "1 class; at least 2"),
        ({"train": 5}, "5 images for 10 classes"),
    ],
)
def test_data_that_do_not_serve(change, says):
    problems = validate(recipe("nckd"), FACTS.model_copy(update=change)).problems
    assert any(says in problem.detail for problem in problems)


def test_a_head_that_nckd_cannot_replace():
    cards = {**CARDS, "resnet8": CARDS["resnet8"].model_copy(update={"head": "other"})}
    (problem,) = validate(recipe("nckd"), FACTS, cards).problems
    assert problem.pointer == "/students/0/methods/0"
    assert problem.detail.startswith("nckd: the student resnet8 has no linear classifier")


def test_students_of_a_recipe_share():
    assert validate(recipe("kd", baseline=True), FACTS).sharing == (("student", "baseline"),)


PHOTOGRAPHS = ImageClassFacts(
    classes=5, class_names=tuple("abcde"), image_size=32, train=3457, validation=430, test=430
)  # fmt: skip


def warnings_of(facts, *methods, **more):
    return validate(recipe(*methods, fields={"labels": {"weight": 1}}, **more), facts).warnings


def test_photographs_are_few_for_random_weights_and_want_augmentation():
    augmented = {"augmentation": {"flip": True}}
    random = warnings_of(PHOTOGRAPHS, "kd", training=augmented)[0]
    assert random.startswith(
        "student 'student', the teacher start from random weights, for which 3,457 training images"
    )
    many = PHOTOGRAPHS.model_copy(update={"train": 50_000})
    (off,) = warnings_of(many, "kd", training=augmented)
    assert off.startswith("teacher.teach.augmentation is off: ")
    assert warnings_of(FACTS, "kd") == (), "scans of 8 pixels are no photographs"
    published = {"architecture": "torchvision.resnet18", "weights": "published"}
    found = validate(
        Recipe.model_validate({
            "dataset": {"name": "digits"}, "teacher": published, "student": published, "methods": [{"name": "kd"}],
            "training": augmented,
        }), PHOTOGRAPHS.model_copy(update={"image_size": 224}),
    )  # fmt: skip
    assert found.warnings == ()


@pytest.mark.parametrize(("method", "term"), [
    ("dkd", "non_target is always 0"), ("dist", "inter has no gradient"), ("lskd", "no term has a gradient"),
    ("normkd", "soft has no gradient"), ("cmkd", "no term has a gradient"), ("r2kd", "rank has no gradient"),
])  # fmt: skip
def test_two_classes_leave_a_method_less_to_teach(method, term):
    two = {"classes": 2, "class_names": ("a", "b")}
    (warning,) = warnings_of(FACTS.model_copy(update=two), method)
    assert warning.startswith(f"{method} of student 'student': the data set has two classes, and ")
    assert warning.endswith(term)
    assert warnings_of(FACTS, method) == ()


@pytest.mark.parametrize(("method", "size", "networks"), [
    ("at", 8, ["resnet8", "resnet20"]), ("at", 12, []), ("fitnet", 8, []), ("fitnet", 4, ["resnet8", "resnet20"]),
    ({"name": "cat_kd", "resolution": 4}, 12, ["resnet8", "resnet20"]), ("kd", 4, []), ("crd", 4, []),
    ("fsp", 4, ["resnet8", "resnet20"]),
])  # fmt: skip
def test_maps_may_be_too_small_for_a_method(method, size, networks):
    found = warnings_of(FACTS.model_copy(update={"image_size": size}), method)
    assert len(found) == len(networks)
    for warning, network in zip(found, networks, strict=True):
        assert f"reads maps, and the last one of {network} has {size // 4} x {size // 4} positions" in warning


def test_methods_that_read_labels_are_told_that_images_are_mixed():
    mixed = {"training": {"augmentation": {"mix": {"name": "cutmix"}}}}
    (warning,) = validate(recipe("kd", "dkd", "crd", fields={"labels": {"weight": 1}}, **mixed), FACTS).warnings
    assert "mix (cutmix) makes one image of two; dkd, crd of student 'student' read one label" in warning
    assert not validate(recipe("kd", **mixed), FACTS).warnings
    assert not validate(recipe("dkd"), FACTS).warnings
