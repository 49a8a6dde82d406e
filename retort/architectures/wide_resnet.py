"""Wide ResNets for small images, as the distillation papers use them on CIFAR."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from retort.architecture import Architecture

if TYPE_CHECKING:
    from retort.network import Network

SHAPES: dict[str, tuple[int, int]] = {f"wrn_{depth}_{width}": (depth, width) for depth in (16, 40) for width in (1, 2)}
"""Depth, counted in 3x3 convolutions and the linear layer, and width factor, by name."""


class WideResnet(Architecture):
    """Pre-activation residual networks: a 3x3 stem, three stages at strides 1, 2 and 4, mean, one linear layer.

    The maps are the stem's, the first two stages' sums and, since that is what the head reads, the last stage's sum
    after its batch norm and activation. Before activation, each map is what goes into the activation that follows
    it, which is after the next batch norm. Without dropout, as in the distillation papers.
    """

    name: ClassVar[str] = "wide_resnet"
    source: ClassVar[str] = "Zagoruyko, Komodakis: Wide Residual Networks, BMVC 2016, https://arxiv.org/abs/1605.07146"

    def names(self) -> tuple[str, ...]:
        return tuple(SHAPES)

    def build(self, architecture: str, classes: int) -> Network:
        from retort.architectures._residual import wide_resnet
        from retort.network import Layout, Network

        depth, width = SHAPES[architecture]
        layout = Layout(
            stages=("conv1", "block1", "block2", "relu"),
            classifier="fc",
            activations=("block1.0.relu1", "block2.0.relu1", "block3.0.relu1", "relu"),
            norms=("block1.0.bn1", "block2.0.bn1", "block3.0.bn1", "bn1"),
        )
        return Network(wide_resnet((depth - 4) // 6, width, classes), layout)
