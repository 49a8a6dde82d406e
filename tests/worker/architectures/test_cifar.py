"""Our own networks against the published ones."""

import pytest
import torch
from torch import nn

from worker.architectures import ARCHITECTURES, CARDS

PUBLISHED_MILLIONS = {
    "resnet20": 0.278,
    "resnet32": 0.473,
    "resnet56": 0.862,
    "resnet110": 1.737,
    "resnet8x4": 1.234,
    "resnet32x4": 7.434,
    "wrn_16_2": 0.703,
    "wrn_40_2": 2.255,
}
"""Parameters for CIFAR-100's 100 classes, as the distillation papers print them."""


@pytest.mark.parametrize(("architecture", "millions"), PUBLISHED_MILLIONS.items())
def test_parameters_are_the_published_count(architecture: str, millions: float) -> None:
    assert round(CARDS[architecture].parameters(100) / 1e6, 3) == millions


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


@pytest.mark.parametrize("architecture", ["resnet8x4", "wrn_16_2"])
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
