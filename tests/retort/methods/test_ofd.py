from dataclasses import replace

import pytest
import torch
from torch import nn

from retort.architectures import CARDS
from retort.method import MethodError, Setup
from retort.methods._layers import MarginConnector, pointwise
from retort.methods.ofd import OFD, normal_margin, partial_error
from tests.retort.methods.conftest import FACTS, IMAGES
from tests.retort.methods.goldens import fill
from tests.retort.methods.stages import batch_behind_a_stem

SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)


def golden(case, given):
    stages = {int(name.split(".")[2]) for name in given if name.startswith(("aux.margin.", "aux.teacher_bn."))}
    margins = {i: margin(given, i) for i in sorted(stages)}
    out = {f"out.margin.{i}": value for i, value in margins.items()}
    if "student.maps.0" not in given:
        return out
    connectors = nn.ModuleList(MarginConnector(connector(given, i), value) for i, value in margins.items())
    weight = case["hyperparameters"].get("feat_weight")
    terms = list(OFD(weight=weight or 1).terms(batch_behind_a_stem(given), connectors).values())
    if weight is None:
        # The authors' code divides by the number of images outside of its loss.
        terms = [len(given["student.maps.0"]) * term for term in terms]
    plain = {f"stage.{i}": 2 ** (len(terms) - 1 - i) * term / (weight or 1) for i, term in enumerate(terms)}
    return {"loss": sum(terms), **plain, **out}


def margin(given, i):
    if f"aux.margin.{i}" in given:
        return given[f"aux.margin.{i}"]
    return normal_margin(given[f"aux.teacher_bn.{i}.weight"], given[f"aux.teacher_bn.{i}.bias"])


def connector(given, i):
    if f"aux.connector.{i}.conv.weight" not in given:
        return nn.Identity()
    channels = (given[f"{role}.maps.{i}"].shape[1] for role in ("student", "teacher"))
    return fill(pointwise(*channels).double(), given, f"aux.connector.{i}")


def error(student, teacher, margin=-1.0):
    maps = (torch.tensor([[[[float(value)]]]]) for value in (student, teacher))
    return partial_error(MarginConnector(nn.Identity(), torch.tensor([margin])), *maps).item()


@pytest.mark.parametrize(
    ("student", "teacher", "wanted"),
    [
        (2, 3, 1),  # active in the teacher: both sides count
        (4, 3, 1),
        (-3, 3, 36),
        (1, -0.5, 1.5**2),  # inactive above the margin: only what is above the teacher
        (-0.7, -0.5, 0),
        (1, -5, 4),  # inactive below the margin: only what is above the margin
        (-2, -5, 0),
    ],
)
def test_what_counts(student, teacher, wanted):
    assert error(student, teacher) == pytest.approx(wanted)


def test_the_margin_of_a_standard_normal_distribution():
    half_normal = (2 / torch.pi) ** 0.5
    found = normal_margin(torch.tensor([1.0, -2.0, 1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 9.0, -3.0, 3.0]))
    torch.testing.assert_close(found, torch.tensor([-half_normal, -2 * half_normal, -3.0, -3.0, 0.0]))


def test_it_comes_from_the_norms_of_the_teachers_deepest_stages(pair):
    made = pair(OFD(), teacher="resnet20")
    for i, stage in enumerate((1, 2, 3)):
        norm = made.teacher.norm(stage)
        wanted = normal_margin(norm.weight.detach(), norm.bias.detach())
        assert torch.equal(made.method_state.modules[i].margin_C11.flatten(), wanted)


def test_it_is_measured_over_all_training_images(pair):
    made = pair(OFD(margin="measured"))
    with torch.no_grad():
        maps = made.teacher.read(made.images, ["preactivations"]).preactivations
    assert len(made.images) == IMAGES
    for connector, map_NCHW in zip(made.method_state.modules, maps[1:], strict=True):
        channels = map_NCHW.transpose(0, 1).flatten(1)
        wanted = torch.stack([c[c < 0].mean() if (c < 0).any() else c.new_zeros(()) for c in channels])
        torch.testing.assert_close(connector.margin_C11.flatten(), wanted)


def test_a_stage_weighs_twice_the_one_before():
    student, teacher = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    given = {f"{role}.maps.{i}": m for role, m in (("student", student), ("teacher", teacher)) for i in (0, 1)}
    connectors = nn.ModuleList(MarginConnector(nn.Identity(), torch.full((2,), -1.0)) for _ in range(2))
    first, second = OFD().terms(batch_behind_a_stem(given), connectors).values()
    assert second.item() == pytest.approx(2 * first.item())


def test_what_it_refuses():
    OFD().check(SETUP)
    with pytest.raises(MethodError, match=r"teacher torchvision.resnet18 are not known, .*; margin: measured serves"):
        OFD().check(replace(SETUP, teacher=CARDS["torchvision.resnet18"]))
    OFD(margin="measured").check(replace(SETUP, teacher=CARDS["torchvision.resnet18"]))
    with pytest.raises(MethodError, match=r"the student torchvision.convnext_tiny has no maps that can be read before"):
        OFD().check(replace(SETUP, student=CARDS["torchvision.convnext_tiny"]))
    with pytest.raises(MethodError, match=r"the teacher torchvision.vit_b_16 has one stage"):
        OFD().check(replace(SETUP, teacher=CARDS["torchvision.vit_b_16"]))
