from dataclasses import replace

import pytest
import torch

from retort.architectures import CARDS
from retort.method import MethodError, Setup
from retort.methods.at import AT
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.stages import batch_behind_a_stem

SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)


def golden(case, given):
    h = case["hyperparameters"]
    method = AT(weight=1, power=h.get("p", 2), distance="mean_square" if "p" in h else "norm")
    terms = list(method.terms(batch_behind_a_stem(given), None).values())
    weights = h.get("stage_weights", [1.0] * len(terms))
    loss = sum(weight * term for weight, term in zip(weights, terms, strict=True))
    return {"loss": loss, **{f"stage.{i}": term for i, term in enumerate(terms)}}


def maps(seed, channels=3, side=4):
    return torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def terms(student, teacher, **fields):
    batch = batch_behind_a_stem({"student.maps.0": student, "teacher.maps.0": teacher})
    return AT(**fields).terms(batch, None)["stage_1"]


@pytest.mark.parametrize("distance", ["mean_square", "norm"])
def test_it_is_zero_for_maps_of_the_same_attention(distance):
    student = maps(0).requires_grad_()
    found = terms(student, 3 * maps(0)[:, [2, 0, 1]], distance=distance)
    found.backward()
    assert found.item() == pytest.approx(0, abs=1e-9)
    assert student.grad.isfinite().all()


def test_attention_at_two_different_positions_is_as_far_as_can_be():
    student, teacher = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    student[:, :, 0, 0], teacher[:, :, 1, 1] = 5, 7
    assert terms(student, teacher, weight=1).item() == pytest.approx(2 / 4)
    assert terms(student, teacher, weight=1, distance="norm").item() == pytest.approx(2**0.5)


def test_the_larger_map_is_averaged_before_the_power():
    teacher = torch.nn.functional.avg_pool2d(maps(1, side=8), 2)
    assert terms(maps(0), maps(1, side=8)).item() == pytest.approx(terms(maps(0), teacher).item())


def test_the_last_stages_stand_beside_each_other(pair):
    made = pair(AT())
    assert made.terms(made.batch()).keys() == {"stage_1", "stage_2", "stage_3"}
    batch = batch_behind_a_stem({"student.maps.0": maps(0), "teacher.maps.0": maps(1), "teacher.maps.1": maps(0)})
    assert AT().terms(batch, None)["stage_1"].item() == pytest.approx(0, abs=1e-12)


def test_networks_of_one_stage_are_refused():
    AT().check(SETUP)
    with pytest.raises(MethodError, match=r"the teacher torchvision.vit_b_16 has one stage; 2 are needed"):
        AT().check(replace(SETUP, teacher=CARDS["torchvision.vit_b_16"]))
    with pytest.raises(MethodError, match=r"the student torchvision.vit_b_16 has one stage; 2 are needed"):
        AT().check(replace(SETUP, student=CARDS["torchvision.vit_b_16"]))
