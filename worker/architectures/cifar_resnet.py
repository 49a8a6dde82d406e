"""ResNets for small images, as the distillation papers use them on CIFAR."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from worker.architecture import Architecture

if TYPE_CHECKING:
    from worker.network import Network

NARROW = (16, 16, 32, 64)
"""Channels of the stem and of the three stages of blocks, as in the paper."""
WIDE = (32, 64, 128, 256)
"""The same for the papers' `x4`: stages four times as wide, the stem twice."""

SHAPES: dict[str, tuple[int, tuple[int, int, int, int]]] = {
    **{f"resnet{depth}": (depth, NARROW) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": (depth, WIDE) for depth in (8, 32)},
}
"""Depth, counted in layers with weights along the main path, and channels, by name."""


class CifarResnet(Architecture):
    """Residual networks of basic blocks: a 3x3 stem, three stages at strides 1, 2 and 4, mean, one linear layer.

    Where a block changes the shape its shortcut is a 1x1 convolution with batch norm, as in the distillation papers
    and unlike the first paper's zero padding. Initialised as He et al. 2015: normal convolutions by fan-out.
    """

    name: ClassVar[str] = "cifar_resnet"
    source: ClassVar[str] = (
        "He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2, "
        "https://arxiv.org/abs/1512.03385; x4 and the shortcuts as in Tian, Krishnan, Isola: Contrastive "
        "Representation Distillation, ICLR 2020, https://arxiv.org/abs/1910.10699"
    )

    def names(self) -> tuple[str, ...]:
        return tuple(SHAPES)

    def build(self, architecture: str, classes: int) -> Network:
        from worker.architectures._residual import cifar_resnet
        from worker.network import Layout, Network

        depth, channels = SHAPES[architecture]
        blocks = (depth - 2) // 6
        last = blocks - 1
        layout = Layout(
            stages=("relu", "layer1", "layer2", "layer3"),
            classifier="fc",
            activations=("relu", *(f"layer{stage}.{last}.relu2" for stage in (1, 2, 3))),
            norms=("bn1", *(f"layer{stage}.{last}.bn2" for stage in (1, 2, 3))),
        )
        return Network(cifar_resnet(blocks, channels, classes), layout)
