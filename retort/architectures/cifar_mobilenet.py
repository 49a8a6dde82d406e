"""MobileNetV2 for small images, as the distillation papers use it on CIFAR."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from retort.architecture import Architecture

if TYPE_CHECKING:
    from retort.network import Network

WIDTHS: dict[str, float] = {"mobilenet_v2_half": 0.5}
"""Width of the convolutions by name, as a share of the paper's."""
SETTINGS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Of each group of blocks: expansion, channels at width 1, blocks, stride of the first."""
STAGES = (1, 2, 4, 6)
"""Groups whose output is a stage's map."""


class CifarMobilenet(Architecture):
    """MobileNetV2 at half its width, with a stem of stride 2 and three halvings behind it; the papers' "MobileNetV2".

    The maps are the stem's and four groups' sums, which no activation follows: before activation they are the same.
    Behind the last map of 160 channels stands a 1x1 convolution to 1,280 channels, whose mean the linear layer reads.
    The second group keeps its resolution, and activations are plain ReLU, as in the distillation papers. Initialised
    as there: normal convolutions by fan-out, a linear layer of deviation 0.01.
    """

    name: ClassVar[str] = "cifar_mobilenet"
    source: ClassVar[str] = (
        "Sandler, Howard, Zhu, Zhmoginov, Chen: MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018, "
        "https://arxiv.org/abs/1801.04381; width and strides as in Tian, Krishnan, Isola: Contrastive Representation "
        "Distillation, ICLR 2020, https://arxiv.org/abs/1910.10699"
    )

    def names(self) -> tuple[str, ...]:
        return tuple(WIDTHS)

    def build(self, architecture: str, classes: int) -> Network:
        from retort.architectures._mobile import mobilenet_v2
        from retort.network import Layout, Network

        ends = tuple(f"group{group}.{SETTINGS[group][2] - 1}" for group in STAGES)
        layout = Layout(
            stages=("relu1", *(f"group{group}" for group in STAGES)),
            classifier="classifier",
            activations=("relu1", *(f"{end}.linear" for end in ends)),
            norms=("bn1", *(f"{end}.bn3" for end in ends)),
        )
        return Network(mobilenet_v2(SETTINGS, WIDTHS[architecture], classes), layout)
