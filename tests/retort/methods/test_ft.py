from dataclasses import replace

import pytest
import torch
from torch import nn

from retort.architectures import CARDS
from retort.method import MethodError
from retort.methods.ft import FT, convolutions
from tests.retort.methods.goldens import batch_of, fill


def golden(case, given):
    h = case["hyperparameters"]
    if "student.factor" in given:
        return {"loss": FT(form="paper", p2=h["p2"]).distance(given["student.factor"], given["teacher.factor"])}
    given = {name.replace("paraphraser.deconv", "decoder.conv"): tensor for name, tensor in given.items()}
    given = {name.replace("paraphraser", "encoder"): tensor for name, tensor in given.items()}
    teacher = given["teacher.maps.0"].shape[1]
    factor = int(teacher * h["factor_rate"])
    parts = {"encoder": convolutions(nn.Conv2d, (teacher, teacher, factor, factor))}
    if "student.maps.0" not in given:
        parts["decoder"] = convolutions(nn.ConvTranspose2d, (factor, factor, teacher, teacher))
        method, parts = FT(), filled(parts, given, h)
        (phase,) = method.phases(None)
        (loss,) = phase.terms(batch_of(given), parts).values()
        return {"loss": loss, "out.factor": parts["encoder"](given["teacher.maps.0"])}
    student = given["student.maps.0"].shape[1]
    parts["translator"] = convolutions(nn.Conv2d, (student, student, factor, factor), norms=True)
    method, parts = FT(weight=1, p1=h["p1"], p2=h["p2"]), filled(parts, given, h)
    return {
        "loss": method.terms(batch_of(given), parts)["factor"],
        "out.factor_student": parts["translator"](given["student.maps.0"]),
        "out.factor_teacher": parts["encoder"](given["teacher.maps.0"]),
    }


def filled(parts, given, h):
    modules = nn.ModuleDict(parts).double()
    for module in modules.modules():
        if isinstance(module, nn.LeakyReLU):
            module.negative_slope = h["leaky_slope"]
    return fill(modules, given, "aux")


def factors(seed, channels=3, side=4):
    return torch.randn(5, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("form", ["attention", "paper"])
@pytest.mark.parametrize("p2", [1, 2])
def test_it_is_zero_for_factors_that_differ_in_scale(form, p2):
    distance = FT(form=form, p2=p2).distance
    assert distance(3 * factors(0), factors(0)).item() == pytest.approx(0, abs=1e-12)
    assert distance(factors(1), factors(0)) > 1e-3


def test_attention_does_not_see_the_order_of_channels():
    swapped = factors(0)[:, [1, 0, 2]]
    assert FT().distance(swapped, factors(0)).item() == pytest.approx(0, abs=1e-12)
    assert FT(form="paper").distance(swapped, factors(0)) > 1e-3


def test_opposite_factors_are_as_far_as_can_be():
    assert FT(form="paper", p2=2).distance(factors(0), -factors(0)).item() == pytest.approx(2)


def test_the_larger_factor_is_averaged():
    pooled = torch.nn.functional.avg_pool2d(factors(1, side=8), 2)
    assert FT().distance(factors(1, side=8), factors(0)).item() == FT().distance(pooled, factors(0)).item()


def test_the_paraphraser_learns_before_the_loop_and_is_frozen_in_it(pair):
    made = pair(FT(epochs=7, paraphraser_learning_rate=0.05))
    phase, main = made.train_states
    assert (phase.phase.epochs, phase.phase.trains, phase.phase.learning_rate) == (7, None, 0.05)
    student = {
        name: value.clone() for name, value in made.train_state.network.state_dict().items() if "running" not in name
    }
    losses = [made.step(0, phase) for _ in range(5)]
    assert losses[-1] < losses[0]
    for name, value in student.items():
        if "num_batches" not in name:
            assert torch.equal(made.train_state.network.state_dict()[name], value), name
    modules = made.method_state.modules
    before = {name: parameter.clone() for name, parameter in modules.named_parameters()}
    made.step(1, main)
    moved = {name.partition(".")[0] for name, p in modules.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"translator"}


def test_the_factors_channels_are_a_share_of_the_teachers(pair):
    modules = pair(FT(factor_rate=0.26)).method_state.modules
    assert modules["encoder"].conv3.out_channels == modules["translator"].conv3.out_channels == int(0.26 * 256)
    assert modules["decoder"].conv3.out_channels == 256


def test_the_attention_of_one_position_is_refused(pair):
    setup = pair(FT()).student_state.setup
    small = replace(setup, teacher=CARDS["torchvision.resnet18"])
    with pytest.raises(MethodError, match="one position alone, whose attention is always 1; form: paper serves"):
        FT().modules(small)
    assert FT(form="paper").modules(small)["encoder"].conv1.in_channels == 512
