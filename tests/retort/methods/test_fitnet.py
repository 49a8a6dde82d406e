from dataclasses import replace

import pytest
import torch
from torch import nn

from retort.architectures import CARDS
from retort.method import MethodError, Setup
from retort.methods._layers import MapRegressor
from retort.methods._maps import Shape
from retort.methods.fitnet import FitNet
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import batch_of, fill


def golden(case, given):
    student, teacher = (Shape(*given[f"{role}.maps.0"].shape[1:3]) for role in ("student", "teacher"))
    regressor = nn.Sequential(MapRegressor(student, teacher), nn.ReLU()).double()
    conv, h = regressor[0].conv, case["hyperparameters"]
    assert (conv.kernel_size[0], conv.stride[0], conv.padding[0]) == (h["kernel"], h["stride"], h["padding"])
    fill(regressor[0], given, "aux.regressor")
    return {
        "loss": FitNet(weight=1, stage=1).terms(batch_of(given), regressor)["hint"],
        "out.regressed": regressor(given["student.maps.0"]),
    }


SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)


@pytest.mark.parametrize("teacher", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_the_regressor_gives_the_teachers_size_unless_the_student_is_far_smaller(teacher):
    student = torch.randn(2, 3, 4, 4)
    out = MapRegressor(Shape(3, 4), Shape(5, teacher))(student)
    assert out.shape == (2, 5, *([teacher] * 2 if teacher <= 4 or teacher == 8 else [4, 4]))


def test_it_is_zero_where_the_regressor_gives_the_teachers_map(pair):
    made = pair(FitNet(stage=1))
    batch = made.batch()
    ((_, student), (key, teacher)) = sorted(batch.outputs.items(), key=lambda item: "Teacher" in repr(item[0]))
    made.method_state.modules.eval()
    target = made.method_state.modules(student.maps[-1]).detach()
    outputs = {**batch.outputs, key: replace(teacher, maps=(*teacher.maps[:-1], target))}
    assert made.terms(replace(batch, outputs=outputs))["hint"].item() == 0
    outputs = {**batch.outputs, key: replace(teacher, maps=(*teacher.maps[:-1], target + 2))}
    assert made.terms(replace(batch, outputs=outputs))["hint"].item() == pytest.approx(100 * 4)


@pytest.mark.parametrize(("stage", "shape"), [(1, (64, 256)), (2, (32, 128)), (4, (16, 32))])
def test_stages_are_counted_from_the_last(pair, stage, shape):
    conv = pair(FitNet(stage=stage)).method_state.modules[0].conv
    assert (conv.in_channels, conv.out_channels) == shape


def test_a_stage_that_is_not_there_is_refused():
    FitNet(stage=4).check(SETUP)
    with pytest.raises(MethodError, match="the student resnet8 has no stage 5, counted from the last"):
        FitNet(stage=5).check(SETUP)
    with pytest.raises(MethodError, match=r"the teacher torchvision.vit_b_16 has no stage 2, counted from the last"):
        FitNet().check(replace(SETUP, teacher=CARDS["torchvision.vit_b_16"]))
