from dataclasses import replace

import pytest
import torch
from torch import nn

from retort.architectures import CARDS
from retort.method import MethodError, Setup
from retort.methods._layers import MapRegressor
from retort.methods._maps import Shape
from retort.methods.ab import AB
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import fill
from tests.retort.methods.stages import batch_behind_a_stem

SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)


def boundaries(given, connectors=None, **fields):
    """The terms of the phase."""
    (phase,) = AB(**fields).phases(SETUP)
    count = sum(name.startswith("student.maps.") for name in given)
    connectors = nn.ModuleList(connectors or [nn.Identity()] * count)
    return list(phase.terms(batch_behind_a_stem(given), connectors).values())


def golden(case, given):
    count = sum(name.startswith("student.maps.") for name in given)
    terms = boundaries(given, [connector(given, i) for i in range(count)], margin=case["hyperparameters"]["margin"])
    return {"loss": sum(terms), **{f"stage.{i}": term for i, term in enumerate(terms)}}


def connector(given, i):
    if f"aux.connector.{i}.conv.weight" not in given:
        return nn.Identity()
    shapes = (Shape(*given[f"{role}.maps.{i}"].shape[1:3]) for role in ("student", "teacher"))
    return fill(MapRegressor(*shapes).double(), given, f"aux.connector.{i}")


def maps(seed):
    return torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_zero_once_the_same_neurons_are_active_by_the_margin():
    far = maps(0).sign() * (1 + maps(1).abs())
    assert boundaries({"student.maps.0": far, "teacher.maps.0": maps(0)})[0].item() == 0
    assert boundaries({"student.maps.0": far, "teacher.maps.0": maps(0)}, margin=1.5)[0] > 0


def test_a_neuron_on_the_wrong_side_costs_the_square_of_its_way_to_the_margin():
    student, teacher = torch.full((2, 1, 1, 1), 0.5), torch.tensor([-3.0, 3.0]).view(2, 1, 1, 1)
    found = boundaries({"student.maps.0": student, "teacher.maps.0": teacher}, weight=1)[0]
    assert found.item() == pytest.approx((1.5**2 + 0.5**2) / 2)


def test_a_stage_weighs_twice_the_one_before():
    first, second = boundaries(
        {f"{role}.maps.{i}": maps(int(role == "teacher")) for role in ("student", "teacher") for i in (0, 1)}
    )
    assert second.item() == pytest.approx(2 * first.item())


def test_it_does_its_work_before_the_loop(pair):
    made = pair(AB(epochs=7))
    (train_state,) = made.train_states
    assert train_state.phase.epochs == 7
    assert made.method.taps(made.student_state.setup) == frozenset()
    assert made.terms(made.batch(train_state=train_state)) == {}
    assert made.terms(made.batch(train_state=train_state), train_state).keys() == {"stage_1", "stage_2", "stage_3"}


def test_equal_stages_have_no_connector(pair):
    kinds = {
        name: {type(c) for c in pair(AB(), teacher=name).method_state.modules} for name in ("resnet20", "resnet8x4")
    }
    assert kinds == {"resnet20": {nn.Identity}, "resnet8x4": {MapRegressor}}


def test_what_it_refuses():
    AB().check(SETUP)
    with pytest.raises(MethodError, match=r"the teacher torchvision.convnext_tiny has no maps that can be read before"):
        AB().check(replace(SETUP, teacher=CARDS["torchvision.convnext_tiny"]))
    with pytest.raises(MethodError, match=r"the student torchvision.vit_b_16 has one stage"):
        AB().check(replace(SETUP, student=CARDS["torchvision.vit_b_16"]))
