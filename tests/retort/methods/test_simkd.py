from dataclasses import replace

import pytest
import torch
from torch import nn

from retort.architectures import CARDS
from retort.engine.networks import placed
from retort.method import MethodError, Setup
from retort.methods.simkd import ReusedClassifier, SimKD
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import batch_of, fill

SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)


def golden(case, given):
    student, teacher = given["student.maps.0"], given["teacher.maps.0"]
    classes, channels = given["aux.teacher_classifier.weight"].shape
    wrapper = ReusedClassifier(
        student_channels=student.shape[1],
        teacher_channels=channels,
        classes=classes,
        reduction=case["hyperparameters"]["reduction"],
        pooling=max(1, student.shape[2] // teacher.shape[2]),
    )
    projected = fill(wrapper.projector().double(), given, "aux.projector")(student)
    classifier = fill(nn.Linear(channels, classes).double(), given, "aux.teacher_classifier")
    return {
        "loss": SimKD().terms(batch_of({**given, "student.maps.0": projected}), None)["feature"],
        "out.projected": projected,
        "out.student_logits": classifier(projected.mean((2, 3))),
    }


def wrapped(pair, student, pooling=1):
    """A network that was wrapped without a teacher, and its wrapper."""
    card = CARDS[student]
    wrapper = ReusedClassifier(
        student_channels=card.stages[-1].channels, teacher_channels=24, classes=10, reduction=3, pooling=pooling
    )
    network = pair.build(student)
    wrapper.build(network, None)
    return network, wrapper


@pytest.mark.parametrize(
    "student", ["resnet8", "wrn_16_1", "torchvision.resnet18", "torchvision.mobilenet_v2", "torchvision.swin_t"]
)
@pytest.mark.parametrize("pooling", [1, 2])
def test_the_wrapped_card_counts_what_is_stored(pair, student, pooling):
    network, wrapper = wrapped(pair, student, pooling)
    card = wrapper.card(CARDS[student], CARDS)
    assert card.parameters(10) == network.parameter_count()
    assert card.multiply_adds > CARDS[student].multiply_adds
    assert (card.head, card.embedding, card.preactivations, card.norms) == ("pool_linear", 24, False, False)
    side = 128
    network.image = network.image.model_copy(update={"size": side})
    outputs = network.eval().read(torch.rand(2, 3, side, side), ["maps", "embedding"])
    assert [m.shape[1:] for m in outputs.maps] == [
        (stage.channels, side // stage.stride, side // stage.stride) for stage in card.stages
    ]
    torch.testing.assert_close(outputs.embedding, outputs.maps[-1].mean((2, 3)))
    torch.testing.assert_close(outputs.logits, network.classifier(outputs.embedding))


def test_multiply_adds_of_the_projector(pair):
    _, wrapper = wrapped(pair, "resnet8", pooling=2)
    added = wrapper.card(CARDS["resnet8"], CARDS).multiply_adds - CARDS["resnet8"].multiply_adds
    assert added == (64 * 8 + 9 * 8 * 8 + 8 * 24) * 4 * 4


def test_the_classifier_is_the_teachers_and_never_trained(pair):
    made = pair(SimKD())
    for number in range(2):
        made.step(number)
    for name, parameter in made.train_state.network.classifier.named_parameters():
        assert not parameter.requires_grad
        assert torch.equal(parameter, made.teacher.classifier.get_parameter(name))


def test_a_student_that_projects_to_the_teachers_map_gives_the_teachers_logits(pair):
    made = pair(SimKD())
    batch = made.batch()
    student, teacher = batch.student(), batch.teacher()
    torch.testing.assert_close(made.teacher.classifier(teacher.maps[-1].mean((2, 3))), teacher.logits)
    torch.testing.assert_close(made.teacher.classifier(student.maps[-1].mean((2, 3))), student.logits)


def test_it_can_be_built_again_from_the_fields_alone(pair):
    made = pair(SimKD())
    name, wrapper = made.student_state.wrapper
    assert name == "simkd"
    network = pair.build("resnet8")
    type(wrapper).model_validate_json(wrapper.model_dump_json()).build(network, None)
    network.load_state_dict(made.train_state.network.state_dict())
    images = made.images[:4]
    # Laid out in memory like the student, else its sums come in another order.
    assert torch.equal(placed(network, images.device).eval()(images), made.train_state.network.eval()(images))


@pytest.mark.parametrize(
    ("student", "teacher", "pooling"),
    [("resnet8", "resnet8x4", 1), ("resnet8", "torchvision.resnet18", 8), ("torchvision.resnet18", "resnet8x4", 1)],
)
def test_the_larger_student_map_is_averaged_by_the_ratio_of_strides(student, teacher, pooling):
    setup = replace(SETUP, student=CARDS[student], teacher=CARDS[teacher])
    assert SimKD().wrapper(setup).pooling == pooling


def test_the_larger_teacher_map_is_averaged():
    maps = torch.randn(3, 4, 8, 8)
    pooled = torch.nn.functional.avg_pool2d(maps, 2)
    assert SimKD().terms(batch_of({"student.maps.0": pooled, "teacher.maps.0": maps}), None)["feature"].item() == 0


def test_what_it_refuses():
    SimKD().check(SETUP)
    with pytest.raises(MethodError, match=r"the teacher torchvision.vgg11 does not end in the mean of its last map"):
        SimKD().check(replace(SETUP, teacher=CARDS["torchvision.vgg11"]))
    with pytest.raises(MethodError, match=r"the student torchvision.vgg11 does not end in the mean of its last map"):
        SimKD().check(replace(SETUP, student=CARDS["torchvision.vgg11"]))
    with pytest.raises(MethodError, match=r"images of 8 pixels a side are smaller than a position .* 32 pixels"):
        SimKD().check(replace(SETUP, teacher=CARDS["torchvision.resnet18"]))
