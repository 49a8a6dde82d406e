from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from retort.architectures import CARDS
from retort.method import MethodError, Setup
from retort.methods.nst import NST, discrepancy
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.stages import batch_behind_a_stem


def golden(case, given):
    terms = list(NST(weight=1).terms(batch_behind_a_stem(given), None).values())
    return {"loss": sum(terms), **{f"stage.{i}": term for i, term in enumerate(terms)}}


def maps(seed, channels=3, side=4):
    return torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_it_is_zero_for_the_same_channels_in_another_order_and_scale():
    teacher = maps(0).repeat(1, 2, 1, 1) * torch.tensor([1.0, 2, 3, 4, 5, 6]).view(1, 6, 1, 1)
    assert discrepancy(maps(0)[:, [2, 0, 1]], teacher).item() == pytest.approx(0, abs=1e-12)


def test_it_is_symmetric():
    assert discrepancy(maps(0), maps(1, 7)).item() == pytest.approx(discrepancy(maps(1, 7), maps(0)).item())


def test_channels_that_select_different_positions():
    student, teacher = torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2)
    student[0, 0, 0, 0] = teacher[0, 0, 0, 1] = teacher[0, 1, 1, 0] = 3
    assert discrepancy(student, teacher).item() == pytest.approx(1 + 1 / 2)


def test_it_is_the_mean_over_all_pairs_of_channels():
    a, b = (F.normalize(x.flatten(2), dim=2) for x in (maps(0), maps(1, 7)))
    kernels = [((x[:, :, None] * y[:, None]).sum(3) ** 2).mean() for x, y in ((a, a), (b, b), (a, b))]
    assert discrepancy(maps(0), maps(1, 7)).item() == pytest.approx((kernels[0] + kernels[1] - 2 * kernels[2]).item())


def test_networks_of_one_stage_are_refused():
    setup = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)
    NST().check(setup)
    with pytest.raises(MethodError, match=r"the teacher torchvision.vit_b_16 has one stage; 2 are needed"):
        NST().check(replace(setup, teacher=CARDS["torchvision.vit_b_16"]))
