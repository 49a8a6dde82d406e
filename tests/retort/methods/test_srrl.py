from dataclasses import replace

import pytest
import torch
from torch import nn

from retort.architectures import CARDS
from retort.method import MethodError, Setup
from retort.methods._layers import TeacherClassifier
from retort.methods.srrl import SRRL
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import batch_of, fill


def golden(case, given):
    reads_map = "student.maps.0" in given
    if reads_map:
        given = {**given, "teacher.embedding": given["teacher.maps.0"].mean((2, 3))}
    weight = case["hyperparameters"].get("sr_weight", 1.0)
    method = SRRL(regression_weight=weight, connector="map" if reads_map else "pooled")
    batch, modules = batch_of(given), classifier(given)
    terms = method.terms(batch, modules)
    projected, logits = modules(method._features(batch))
    return {
        "loss": sum(terms.values()),
        "feature": terms["feature"],
        "softmax_regression": terms["softmax_regression"] / weight,
        "out.projected": projected,
        "out.projected_logits": logits,
    }


def classifier(given):
    weight_KD = given["aux.teacher_classifier.weight"]
    linear = nn.Linear(weight_KD.shape[1], weight_KD.shape[0], dtype=weight_KD.dtype)
    fill(linear, given, "aux.teacher_classifier")
    modules = TeacherClassifier(given["aux.connector.conv.weight"].shape[1], linear).double()
    fill(modules.connector, given, "aux.connector")
    return modules


@pytest.mark.parametrize("connector", ["pooled", "map"])
def test_the_teachers_own_features_get_the_teachers_logits(pair, connector):
    """With a connector that changes nothing, a student like the teacher is right."""
    made = pair(SRRL(connector=connector), student="resnet20", teacher="resnet20")
    made.train_state.network.load_state_dict(made.teacher.state_dict())
    made.train_state.network.eval()
    conv, norm = made.method_state.modules.connector
    with torch.no_grad():
        conv.weight.copy_(torch.eye(64)[:, :, None, None])
    norm.eps = 0.0
    norm.eval()
    for term in made.terms(made.batch()).values():
        assert term.item() == pytest.approx(0, abs=1e-8)


def test_the_classifier_is_a_frozen_copy_of_the_teachers(pair):
    made = pair(SRRL())
    assert {name for name, _ in made.method_state.modules.named_parameters()} == {
        "connector.conv.weight",
        "connector.bn.weight",
        "connector.bn.bias",
    }
    assert torch.equal(made.method_state.modules.weight_KD, made.teacher.classifier.weight)
    made.step(0)
    assert torch.equal(made.method_state.modules.weight_KD, made.teacher.classifier.weight)


def test_a_classifier_without_bias():
    linear = nn.Linear(3, 4, bias=False)
    features, logits = TeacherClassifier(2, linear)(torch.randn(5, 2, 1, 1))
    torch.testing.assert_close(logits, linear(features))


def test_a_teacher_without_a_linear_classifier_is_refused():
    setup = Setup(FACTS, FACTS.classes, CARDS["torchvision.squeezenet1_0"], CARDS["resnet8x4"], 8, 2, CARDS)
    SRRL().check(setup)
    with pytest.raises(MethodError, match=r"the teacher torchvision.squeezenet1_0 has no linear classifier"):
        SRRL().check(replace(setup, teacher=CARDS["torchvision.squeezenet1_0"]))
