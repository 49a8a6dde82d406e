"""Our own networks against the published ones."""

import pytest
import torch
from torch import nn
from torchvision import models

from retort.architectures import ARCHITECTURES, CARDS

PUBLISHED_MILLIONS = {
    "resnet20": 0.278,
    "resnet32": 0.473,
    "resnet56": 0.862,
    "resnet110": 1.737,
    "resnet8x4": 1.234,
    "resnet32x4": 7.434,
    "wrn_16_2": 0.703,
    "wrn_40_2": 2.255,
    "vgg8": 3.965,
    "vgg13": 9.462,
    "resnet50_cifar": 23.705,
    "mobilenet_v2_half": 0.813,
    "shufflenet_v1": 0.949,
    "shufflenet_v2": 1.356,
}
"""Parameters for CIFAR-100's 100 classes, as the distillation papers print them."""


def test_parameters_are_the_published_count() -> None:
    assert {name: round(CARDS[name].parameters(100) / 1e6, 3) for name in PUBLISHED_MILLIONS} == PUBLISHED_MILLIONS


def test_multiply_adds_of_resnet20_are_the_published_ones() -> None:
    assert round(CARDS["resnet20"].multiply_adds / 1e6, 1) == 40.8


@pytest.mark.parametrize(
    ("architecture", "channels"),
    [
        ("resnet110", [16, 16, 32, 64]),
        ("resnet32x4", [32, 64, 128, 256]),
        ("wrn_40_2", [16, 32, 64, 128]),
        ("wrn_40_1", [16, 16, 32, 64]),
    ],
)
def test_stages_are_the_published_ones(architecture: str, channels: list[int]) -> None:
    stages = CARDS[architecture].stages
    assert [(s.channels, s.stride) for s in stages] == list(zip(channels, [1, 1, 2, 4], strict=True))


PUBLISHED_MAPS = {
    "resnet50_cifar": ([(64, 32), (256, 32), (512, 16), (1024, 8), (2048, 4)], 2048),
    "vgg8": ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "vgg13": ([(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)], 512),
    "mobilenet_v2_half": ([(16, 16), (12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "shufflenet_v1": ([(24, 32), (240, 16), (480, 8), (960, 4)], 960),
    "shufflenet_v2": ([(24, 32), (116, 16), (232, 8), (464, 4)], 1024),
}
"""Channels and side of each map, and the embedding's width, for images of 32 pixels."""


@pytest.mark.parametrize("architecture", PUBLISHED_MAPS)
def test_maps_and_embedding_have_the_published_shapes(architecture: str) -> None:
    maps, embedding = PUBLISHED_MAPS[architecture]
    network = ARCHITECTURES[architecture].build(architecture, 100).eval()
    with torch.no_grad():
        outputs = network.read(torch.rand(2, 3, 32, 32), ("maps", "embedding"))
    assert [tuple(m.shape) for m in outputs.maps] == [(2, channels, side, side) for channels, side in maps]
    assert outputs.embedding is not None
    assert outputs.embedding.shape == (2, embedding)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_a_vggs_convolutions_are_those_of_torchvision(depth: int) -> None:
    with torch.device("meta"):
        theirs = models.get_model(f"vgg{depth}_bn", weights=None).features
    assert CARDS[f"vgg{depth}"].body_parameters == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_a_large_resnets_numbers_are_those_of_torchvision_but_for_the_stem(depth: int) -> None:
    ours, theirs = CARDS[f"resnet{depth}_cifar"], CARDS[f"torchvision.resnet{depth}"]
    smaller_stem = 3 * 64 * (7**2 - 3**2)
    assert theirs.body_parameters - ours.body_parameters == smaller_stem


def test_the_last_maps_of_light_networks_stand_before_a_convolution() -> None:
    for architecture in ("mobilenet_v2_half", "shufflenet_v2"):
        card = CARDS[architecture]
        assert card.head == "linear"
        assert card.stages[-1].channels < card.embedding
    assert CARDS["shufflenet_v1"].head == "pool_linear"


def test_a_mobilenets_maps_are_sums_that_no_activation_follows() -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES["mobilenet_v2_half"].build("mobilenet_v2_half", 10).eval()
    with torch.no_grad():
        outputs = network.read(torch.rand(2, 3, 32, 32), ("maps", "preactivations"))
    for before, after in list(zip(outputs.preactivations, outputs.maps, strict=True))[1:]:
        assert torch.equal(before, after)
        assert after.min() < 0


def test_half_of_a_shufflenet_v2_block_passes_by_unchanged() -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES["shufflenet_v2"].build("shufflenet_v2", 10).eval()
    block = network.body.get_submodule("stage2.3")
    map_NCHW = torch.rand(2, 232, 4, 4)
    with torch.no_grad():
        out_NCHW = block(map_NCHW)
    # Shuffled in two groups: what passed by lies at every second channel.
    assert torch.equal(out_NCHW[:, ::2], map_NCHW[:, :116])
    assert not torch.equal(out_NCHW[:, 1::2], map_NCHW[:, 116:])


@pytest.mark.parametrize("architecture", ["resnet8x4", "wrn_16_2", "vgg8", "resnet50_cifar", "mobilenet_v2_half"])
def test_convolutions_start_normal_with_the_fan_out_variance(architecture: str) -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES[architecture].build(architecture, 10)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for convolution in convolutions:
        fan_out = convolution.out_channels * convolution.kernel_size[0] ** 2
        weights = convolution.weight.detach()
        spread = (2 / fan_out) ** 0.5 * (2 * weights.numel()) ** -0.5
        assert abs(weights.std() - (2 / fan_out) ** 0.5) < 5 * spread


def test_a_wide_resnets_last_map_is_what_its_head_reads_and_the_others_are_sums() -> None:
    torch.manual_seed(0)
    network = ARCHITECTURES["wrn_16_1"].build("wrn_16_1", 10).eval()
    with torch.no_grad():
        outputs = network.read(torch.rand(2, 3, 16, 16), ("embedding", "maps", "preactivations"))
    assert outputs.embedding is not None
    assert torch.allclose(outputs.maps[-1].mean((2, 3)), outputs.embedding)
    assert torch.equal(outputs.preactivations[-1].relu(), outputs.maps[-1])
    block = network.body.get_submodule("block2.0")
    for map_NCHW in outputs.maps[1:3]:
        assert map_NCHW.min() < 0
    with torch.no_grad():
        normalised = block.get_submodule("bn1")(outputs.maps[1])
    assert torch.equal(normalised, outputs.preactivations[2 - 1])
