"""ResNets for small images, as the distillation papers use them on CIFAR."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from retort.architecture import Architecture

if TYPE_CHECKING:
    from retort.network import Network


class ResnetShape(NamedTuple):
    """The numbers in which ResNets differ."""

    blocks: tuple[int, ...]
    """Blocks of each stage."""
    channels: tuple[int, ...]
    """Of the stem and of each stage's output."""
    bottleneck: bool = False
    """Whether a block is three convolutions, the middle one narrow, instead of two."""


NARROW = (16, 16, 32, 64)
"""Channels of the stem and of the three stages of blocks, as in the paper."""
WIDE = (32, 64, 128, 256)
"""The same for the papers' `x4`: stages four times as wide, the stem twice."""
FOUR = (64, 64, 128, 256, 512)
"""The same for the networks of ImageNet's shape: four stages behind a 3x3 stem of 64 channels."""

SHAPES: dict[str, ResnetShape] = {
    **{f"resnet{depth}": ResnetShape(((depth - 2) // 6,) * 3, NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": ResnetShape(((depth - 2) // 6,) * 3, WIDE) for depth in (8, 32)},
    "resnet18_cifar": ResnetShape((2, 2, 2, 2), FOUR),
    "resnet34_cifar": ResnetShape((3, 4, 6, 3), FOUR),
    "resnet50_cifar": ResnetShape((3, 4, 6, 3), (64, 256, 512, 1024, 2048), bottleneck=True),
}
"""By name; a number in it is the depth, counted in layers with weights along the main path."""


class CifarResnet(Architecture):
    """Residual networks: a 3x3 stem, stages of blocks at strides 1, 2, 4 and, in some, 8; mean, one linear layer.

    Three stages of basic blocks, as made for CIFAR, or, with `_cifar` in the name, ImageNet's four stages behind a
    stem that keeps the resolution (the papers' "ResNet50" on CIFAR). Where a block changes the shape its shortcut is a
    1x1 convolution with batch norm, as in the distillation papers and unlike the first paper's zero padding.
    Initialised as He et al. 2015: normal convolutions by fan-out.
    """

    name: ClassVar[str] = "cifar_resnet"
    source: ClassVar[str] = (
        "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2, "
        "https://arxiv.org/abs/1512.03385; x4, the shortcuts and the stem before four stages as in Tian, Krishnan, "
        "Isola: Contrastive Representation Distillation, ICLR 2020, https://arxiv.org/abs/1910.10699"
    )

    def names(self) -> tuple[str, ...]:
        return tuple(SHAPES)

    def build(self, architecture: str, classes: int) -> Network:
        from retort.architectures._residual import BasicBlock, Bottleneck, cifar_resnet
        from retort.network import Layout, Network

        blocks, channels, bottleneck = SHAPES[architecture]
        block, last = (Bottleneck, 3) if bottleneck else (BasicBlock, 2)
        ends = tuple(f"layer{stage}.{count - 1}" for stage, count in enumerate(blocks, start=1))
        layout = Layout(
            stages=("relu", *(f"layer{stage}" for stage in range(1, len(blocks) + 1))),
            classifier="fc",
            activations=("relu", *(f"{end}.relu{last}" for end in ends)),
            norms=("bn1", *(f"{end}.bn{last}" for end in ends)),
        )
        return Network(cifar_resnet(block, blocks, channels, classes), layout)
