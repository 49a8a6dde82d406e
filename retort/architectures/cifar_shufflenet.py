"""ShuffleNets for small images, as the distillation papers use them on CIFAR."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from retort.architecture import Architecture

if TYPE_CHECKING:
    from retort.network import Network

BLOCKS = (4, 8, 4)
"""Of the three stages, the one that halves the resolution counted."""
NAMES = ("shufflenet_v1", "shufflenet_v2")


class CifarShufflenet(Architecture):
    """ShuffleNets with a 1x1 stem that keeps the resolution and three stages at strides 2, 4 and 8.

    `shufflenet_v1` has three groups; its last map's mean goes into the linear layer. `shufflenet_v2` is of size 1;
    behind its last map of 464 channels stands a 1x1 convolution to 1,024 channels, whose mean the linear layer reads.
    As in the distillation papers, V1 has an activation after the depthwise convolution too, which its paper lacks. A
    V2 block activates and shuffles in this order here, which gives the same numbers in the same places. Initialised by
    torch.
    """

    name: ClassVar[str] = "cifar_shufflenet"
    source: ClassVar[str] = (
        "Zhang, Zhou, Lin, Sun: ShuffleNet, CVPR 2018, https://arxiv.org/abs/1707.01083; Ma, Zhang, Zheng, Sun: "
        "ShuffleNet V2, ECCV 2018, https://arxiv.org/abs/1807.11164; stems as in Tian, Krishnan, Isola: Contrastive "
        "Representation Distillation, ICLR 2020, https://arxiv.org/abs/1910.10699"
    )

    def names(self) -> tuple[str, ...]:
        return NAMES

    def build(self, architecture: str, classes: int) -> Network:
        from retort.architectures._mobile import shufflenet_v1, shufflenet_v2
        from retort.network import Layout, Network

        ends = tuple(f"stage{stage}.{count - 1}" for stage, count in enumerate(BLOCKS, start=1))
        stages, activations = ("relu1", "stage1", "stage2", "stage3"), ("relu1", *(f"{end}.relu3" for end in ends))
        if architecture == "shufflenet_v1":
            layout = Layout(stages, "classifier", activations, norms=("bn1", *(f"{end}.bn3" for end in ends)))
            return Network(shufflenet_v1((240, 480, 960), BLOCKS, 3, classes), layout)
        # Batch norm stands before half of a stage's activations only.
        layout = Layout(stages, "classifier", activations)
        return Network(shufflenet_v2((116, 232, 464, 1024), BLOCKS, classes), layout)
