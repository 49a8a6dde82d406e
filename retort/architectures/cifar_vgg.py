"""VGG networks for small images, as the distillation papers use them on CIFAR."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from retort.architecture import Architecture

if TYPE_CHECKING:
    from retort.network import Network

CHANNELS = (64, 128, 256, 512, 512)
"""Of the five blocks."""
CONVOLUTIONS: dict[str, tuple[int, ...]] = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
"""3x3 convolutions in each block, by name."""


class CifarVgg(Architecture):
    """VGG networks with batch norm: five blocks at strides 1, 2, 4, 8 and 8, mean, one linear layer.

    A block is 3x3 convolutions, each with batch norm and activation; halving stands between the first four, and the
    map of a block is what it gives before it is halved. Initialised as in the distillation papers: normal convolutions
    by fan-out with zero bias, and a linear layer of deviation 0.01.
    """

    name: ClassVar[str] = "cifar_vgg"
    source: ClassVar[str] = (
        "Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, "
        "https://arxiv.org/abs/1409.1556; vgg8 and the head as in Tian, Krishnan, Isola: Contrastive Representation "
        "Distillation, ICLR 2020, https://arxiv.org/abs/1910.10699"
    )

    def names(self) -> tuple[str, ...]:
        return tuple(CONVOLUTIONS)

    def build(self, architecture: str, classes: int) -> Network:
        from retort.architectures._vgg import cifar_vgg
        from retort.network import Layout, Network

        counts = CONVOLUTIONS[architecture]
        layout = Layout(
            stages=tuple(f"block{i}" for i in range(len(counts))),
            classifier="classifier",
            activations=tuple(f"block{i}.{3 * count - 1}" for i, count in enumerate(counts)),
            norms=tuple(f"block{i}.{3 * count - 2}" for i, count in enumerate(counts)),
        )
        return Network(cifar_vgg(counts, CHANNELS, classes), layout)
