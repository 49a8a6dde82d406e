from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from retort.architectures import CARDS
from retort.method import TEACHER, MethodError, Setup, Tap
from retort.methods._layers import FusionBlock
from retort.methods.reviewkd import ReviewKD, fuse, fusion_blocks, hierarchical_distance
from tests.retort.methods.conftest import FACTS
from tests.retort.methods.goldens import fill
from tests.retort.methods.stages import batch_behind_a_stem

SETUP = Setup(FACTS, FACTS.classes, CARDS["resnet8"], CARDS["resnet8x4"], 8, 2, CARDS)


def golden(case, given):
    h = case["hyperparameters"]
    if "review_weight" in h:
        return golden_chain(given, h)
    if "student.residual" in given:
        return golden_block(given, h)
    count = sum(name.startswith("student.maps.") for name in given)
    terms = [hierarchical_distance(given[f"student.maps.{i}"], given[f"teacher.maps.{i}"]) for i in range(count)]
    return {"loss": sum(terms), **{f"stage.{i}": term for i, term in enumerate(terms)}}


def golden_block(given, h):
    channels = [given[name].shape[1] for name in ("student.maps.0", "student.residual", "teacher.maps.0")]
    block = fill(FusionBlock(*channels, fuses=True).double(), given, "aux.abf")
    fused, residual = block(given["student.maps.0"], given["student.residual"], (h["out_size"],) * 2)
    loss = hierarchical_distance(fused, given["teacher.maps.0"])
    return {"loss": loss, "out.fused": fused, "out.residual": residual}


def golden_chain(given, h):
    """The blocks are given deep to shallow; epochs are counted from one."""
    method = ReviewKD(weight=h["review_weight"], warmup_epochs=h["warmup_epochs"])
    batch = batch_behind_a_stem(given, epoch=h["epoch"] - 1)
    student, teacher = method._levels(batch)
    *stages, embeddings = ((s.shape[1], t.shape[1]) for s, t in zip(student, teacher, strict=True))
    blocks = fusion_blocks(stages, embeddings).double()
    assert blocks[0].conv1.out_channels == h["mid_channels"]
    for i, block in enumerate(reversed(blocks)):
        fill(block, given, f"aux.abf.{i}")
    fused = fuse(blocks, student, teacher)
    loss = method.terms(batch, blocks)["review"]
    return {"loss": loss, **{f"out.fused.{i}": level for i, level in enumerate(fused)}}


def maps(seed, side=8):
    return torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("side", [1, 2, 4, 7, 8])
def test_weights_of_the_resolutions_add_up_to_one(side):
    assert hierarchical_distance(maps(0, side), maps(0, side)).item() == 0
    assert hierarchical_distance(maps(0, side) + 3, maps(0, side)).item() == pytest.approx(9)


def test_a_coarser_resolution_weighs_half():
    fine = torch.tensor([[1.0, -1], [-1, 1]])[None, None]
    assert hierarchical_distance(fine, torch.zeros(1, 1, 2, 2)).item() == pytest.approx(1 / 1.5)


def test_a_block_mixes_position_by_position():
    block = FusionBlock(4, 5, 6, fuses=True).double().eval()
    with torch.no_grad():
        block.attention.weight.zero_()
        block.attention.bias.copy_(torch.tensor([-100.0, 100.0]))
    deeper = torch.randn(3, 5, 4, 4, dtype=torch.float64)
    fused, mixed = block(maps(0), deeper, (8, 8))
    torch.testing.assert_close(mixed, F.interpolate(deeper, (8, 8)))
    assert fused.shape == (3, 6, 8, 8)


def test_the_weight_grows_over_the_warm_up(pair):
    made = pair(ReviewKD(warmup_epochs=4))
    batch = made.batch()
    found = [made.terms(replace(batch, epoch=torch.tensor(epoch)))["review"].item() for epoch in (0, 1, 3, 4, 100)]
    assert [value / found[-1] for value in found] == pytest.approx([1 / 4, 2 / 4, 1, 1, 1])


@pytest.mark.parametrize("before", [True, False])
def test_the_teachers_maps_are_those_before_activation_if_wanted(pair, before):
    made = pair(ReviewKD(before_activation=before))
    assert (Tap(TEACHER, "preactivations") in made.train_state.taps) == before
    assert (Tap(TEACHER, "maps") in made.train_state.taps) != before
    assert made.terms(made.batch())["review"] > 0


def test_a_deep_stage_reaches_the_shallow_levels(pair):
    made = pair(ReviewKD())
    student, teacher = made.method._levels(made.batch())
    fused = fuse(made.method_state.modules, student, teacher)
    (gradient,) = torch.autograd.grad(fused[0].square().sum(), student[-1])
    assert gradient.abs().sum() > 0


def test_what_it_refuses():
    ReviewKD().check(SETUP)
    setup = replace(SETUP, teacher=CARDS["torchvision.convnext_tiny"])
    with pytest.raises(
        MethodError, match=r"teacher torchvision.convnext_tiny has no .*; before_activation: false serves"
    ):
        ReviewKD().check(setup)
    ReviewKD(before_activation=False).check(setup)
    with pytest.raises(MethodError, match=r"the student torchvision.vit_b_16 has one stage"):
        ReviewKD().check(replace(SETUP, student=CARDS["torchvision.vit_b_16"]))
