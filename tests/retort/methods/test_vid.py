from dataclasses import replace
from math import log

import pytest
import torch
from torch import nn

from retort.architectures import CARDS
from retort.method import MethodError, Setup
from retort.methods._layers import GaussianRegressor
from retort.methods.vid import VID, surprise
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import fill
from tests.retort.methods.stages import batch_behind_a_stem


def golden(case, given):
    count = sum(name.startswith("student.maps.") for name in given)
    regressors = nn.ModuleList(
        fill(regressor(given, i, case["hyperparameters"]["eps"]), given, f"aux.stage{i}") for i in range(count)
    )
    terms = list(VID().terms(batch_behind_a_stem(given), regressors).values())
    return {"loss": sum(terms), **{f"stage.{i}": term for i, term in enumerate(terms)}}


def regressor(given, i, smallest_variance):
    channels = (given[f"{role}.maps.{i}"].shape[1] for role in ("student", "teacher"))
    return GaussianRegressor(*channels, smallest_variance=smallest_variance)


def maps(seed, channels=3):
    return torch.randn(5, channels, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_variance_starts_at_five():
    _, variance = GaussianRegressor(3, 4, smallest_variance=1e-5)(maps(0).float())
    torch.testing.assert_close(variance, torch.full((4, 1, 1), 5.0))


def test_a_map_that_is_foretold_costs_half_the_logarithm_of_the_variance():
    made = GaussianRegressor(3, 4, smallest_variance=1e-5).double()
    mean, _ = made(maps(0))
    assert surprise(made, maps(0), mean.detach()).item() == pytest.approx(log(5) / 2, abs=1e-6)
    assert surprise(made, maps(0), mean.detach() + 2).item() == pytest.approx((4 / 5 + log(5)) / 2, abs=1e-6)


def test_the_best_variance_is_the_mean_square_of_the_error():
    made = GaussianRegressor(3, 4, smallest_variance=1e-5).double()
    teacher = made(maps(0))[0].detach() + 5**0.5
    surprise(made, maps(0), teacher).backward()
    torch.testing.assert_close(made.scale.grad, torch.zeros(4, dtype=torch.float64), atol=1e-6, rtol=0)


def test_networks_of_one_stage_are_refused():
    setup = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)
    VID().check(setup)
    with pytest.raises(MethodError, match=r"the student torchvision.vit_b_16 has one stage; 2 are needed"):
        VID().check(replace(setup, student=CARDS["torchvision.vit_b_16"]))
