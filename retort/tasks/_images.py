"""Base of image tasks: everything that depends on inputs being images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar

from retort.architecture import Architecture, Card
from retort.augmentation import Augmentation
from retort.dataset import DataFacts, ImageFacts
from retort.input import Input
from retort.outputs import READS, Read
from retort.task import Task
from retort.view import View, ViewBatch

if TYPE_CHECKING:
    from torch import Tensor

    from retort.draws import DrawPoint
    from retort.network import Network

MIDDLE_GREY = (0.5, 0.5, 0.5)
ENLARGED = 1.25
"""Factor above which images are too small for a network: those of 28 pixels still serve one of 32."""
SMALLEST_PHOTOGRAPH = 16
"""Side, in pixels, of images below which there is no advice for photographs."""
FEW_PHOTOGRAPHS = 10_000
"""Training images below which a start from random weights is odd."""


def image_facts(facts: DataFacts) -> ImageFacts:
    """The facts of a data set of images. Raises TypeError for others; a recipe's validation refuses them before."""
    if not isinstance(facts, ImageFacts):
        raise TypeError(f"facts of images are wanted; found {type(facts).__name__}")
    return facts


class ImageTask(Task):
    """Base of tasks whose inputs are square RGB images."""

    reads: ClassVar[frozenset[Read]] = frozenset(READS)

    def network_problems(self, facts: DataFacts, card: Card) -> Iterator[str]:
        size = image_facts(facts).image_size
        if size < card.smallest_image:
            yield (
                f"{card.architecture} reads images of {card.smallest_image} pixels a side at least; "
                f"the data set's have {size}"
            )

    def teacher_warnings(self, size: int, facts: DataFacts) -> Iterator[str]:
        """Images that are enlarged for the teacher: `size` is the side that it expects, in pixels."""
        found = image_facts(facts).image_size
        if size > ENLARGED * found:
            yield (
                f"the teacher expects images of {size} pixels a side, and the data set's have {found}: trained "
                f"networks recognise little in enlarged images; give the data set image_size {size} if it has that "
                "field (the student may still see less)"
            )

    def random_start_warnings(self, networks: str, facts: DataFacts) -> Iterator[str]:
        found = image_facts(facts)
        if found.image_size >= SMALLEST_PHOTOGRAPH and 0 < found.train < FEW_PHOTOGRAPHS:
            yield (
                f"{networks} from random weights, for which {found.train:,} training images are few: published weights "
                "(of a torchvision or timm architecture) or a model as the start usually end far better"
            )

    def augmentation_warnings(self, pointer: str, augmentation: Augmentation, facts: DataFacts) -> Iterator[str]:
        if image_facts(facts).image_size >= SMALLEST_PHOTOGRAPH and augmentation == Augmentation():
            yield (
                f"{pointer} is off: each epoch sees the very same images; crop_padding or resized_crop, "
                "and flip where a mirrored image means the same, usually help"
            )

    def input_size(self, facts: DataFacts) -> int:
        return image_facts(facts).image_size

    def build(self, family: Architecture, architecture: str, facts: DataFacts) -> Network:
        """The network's input is normalised with the data's statistics."""
        found = image_facts(facts)
        network = family.build(architecture, self.outputs(facts))
        size = network.image.size or found.image_size
        network.set_input(Input.model_validate({"size": size, "mean": found.mean, "std": found.std}))
        return network

    def sample(self, facts: DataFacts, count: int, seed: int) -> Tensor:
        """(count, 3, S, S) uniform in [0, 1)."""
        import torch

        size = image_facts(facts).image_size
        return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))

    def make_views(
        self, inputs: Tensor, views: Iterable[View], augmentation: Augmentation, facts: DataFacts, point: DrawPoint
    ) -> dict[View, ViewBatch]:
        """(N, 3, H, W) uint8 to float32 in [0, 1], augmented by the recipe."""
        import torch

        from retort.images.views import make_views

        # Filled on the device: a copy from the host would make it wait.
        mean = image_facts(facts).mean or MIDDLE_GREY
        fill = torch.cat([torch.full((1, 1, 1, 1), value, device=inputs.device) for value in mean], dim=1)
        return make_views(inputs, views, augmentation, fill, point)

    def blend(self, inputs: Tensor, others: Tensor, weights: Tensor) -> Tensor:
        """(N, 3, H, W) uint8, blended in float64 and rounded down."""
        import torch

        shares = weights.view(-1, 1, 1, 1)
        return (shares * inputs + (1 - shares) * others).to(torch.uint8)

    def plain_inputs(self, inputs: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 to float32 in [0, 1]."""
        return inputs.float() / 255
