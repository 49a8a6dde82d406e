from dataclasses import replace

import pytest
import torch

from retort.architectures import CARDS
from retort.method import STUDENT, TEACHER, Batch, MethodError, Setup
from retort.methods.residual_kd import ResidualKD
from retort.outputs import Outputs
from retort.view import CLEAN
from tests.retort.methods.conftest import FACTS

SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)


def terms(student, assistant, teacher, method=None):
    outputs = {
        (STUDENT, CLEAN): Outputs(None, torch.cat([student, assistant], dim=1)),
        (TEACHER, CLEAN): Outputs(None, teacher),
    }
    return (method or ResidualKD()).terms(Batch(outputs, *[None] * 6), None)


def features(seed):
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_nothing_is_left_when_the_assistant_gives_what_the_student_misses():
    student, teacher = features(0), features(1)
    found = terms(student, teacher - student, teacher)
    assert found["assistant"].item() == pytest.approx(0, abs=1e-12)
    assert found["student"].item() == pytest.approx(((student - teacher) ** 2).mean().item())


def test_the_assistant_does_not_move_the_student():
    student = features(0).requires_grad_()
    terms(student, features(1), features(2))["assistant"].backward()
    assert student.grad is None or not student.grad.any()


@pytest.mark.parametrize("assistant", [None, "resnet14", "wrn_16_1"])
def test_the_card_counts_both(pair, assistant):
    made = pair(ResidualKD(assistant=assistant))
    network, card = made.train_state.network, made.student_state.setup.student
    assert card.parameters(FACTS.classes) == network.parameter_count()
    assert card.multiply_adds > CARDS["resnet8"].multiply_adds
    out = network.eval().read(made.images[:4], ["embedding", "maps"])
    assert out.embedding.shape == (4, card.embedding)
    assert [m.shape[1] for m in out.maps] == [stage.channels for stage in card.stages]


@pytest.mark.parametrize(
    ("setup", "assistant", "message"),
    [
        (SETUP, "resnet9", "there is no architecture 'resnet9' for the assistant"),
        (SETUP, "torchvision.squeezenet1_0", "the assistant torchvision.squeezenet1_0 has no linear classifier"),
        (replace(SETUP, teacher=CARDS["torchvision.squeezenet1_0"]), None, "the teacher torchvision.squeezenet1_0"),
        (SETUP, "torchvision.vgg13", "reads images of 32 pixels a side at least; the data set's have 8"),
    ],
)
def test_what_it_refuses(setup, assistant, message):
    with pytest.raises(MethodError, match=message):
        ResidualKD(assistant=assistant).check(setup)
