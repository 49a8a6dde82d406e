"""Augmentations of training images that a recipe may have; applied by the engine in `retort/images/views.py`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from retort.spec import Spec


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise PydanticCustomError(
            "falling_range",
            "the range is {found}; its first number must not exceed its second",
            {"found": list(bounds)},
        )
    return bounds


Share = Annotated[float, Field(gt=0, le=1)]
Shares = Annotated[tuple[Share, Share], AfterValidator(_rising)]
Ratio = Annotated[float, Field(ge=0.01, le=100)]
Ratios = Annotated[tuple[Ratio, Ratio], AfterValidator(_rising)]
Alpha = Annotated[float, Field(gt=0, le=100)]
Probability = Annotated[float, Field(ge=0, le=1)]


class ResizedCrop(Spec):
    """A box of random place, area and shape, scaled to the image's size: Szegedy et al. 2014, arXiv 1409.4842.

    The published crop is of the original photograph; this one is of the square that the data set stores. Since a box
    is never larger than what it is scaled to, bilinear scaling needs no antialiasing. Values are not rounded to whole
    ones.
    """

    area: Shares = (0.08, 1.0)
    """Smallest and largest area of the box, shares of the image's."""
    ratio: Ratios = (3 / 4, 4 / 3)
    """Smallest and largest width over height, drawn evenly in their logarithm."""


class RandAugmentPolicy(Spec):
    """Some of fourteen changes of geometry and colour to each image, of one strength: Cubuk et al. 2019,
    arXiv 1909.13719, with torchvision's operations and strengths."""

    name: Literal["randaugment"] = "randaugment"
    operations: int = Field(default=2, ge=1, le=16)
    """Number drawn for an image, one after the other; the same one may come twice."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """Strength, a whole number."""


class AutoAugmentPolicy(Spec):
    """One of 25 learned pairs of changes to each image: Cubuk et al. 2018, arXiv 1805.09501."""

    name: Literal["autoaugment"] = "autoaugment"
    learned_on: Literal["cifar10", "imagenet"] = "cifar10"
    """The data on which the pairs were learned."""


class TrivialAugmentPolicy(Spec):
    """One of fourteen changes to each image, of any strength from a wide range: Müller, Hutter 2021,
    arXiv 2103.10158, TrivialAugmentWide. It moves images by up to 32 pixels whatever their size."""

    name: Literal["trivialaugment"] = "trivialaugment"


class Erasing(Spec):
    """A box of some images covered: Zhong et al. 2017, arXiv 1708.04896.

    The paper draws the box's shape evenly, which favours tall ones; here, as in torchvision, its logarithm is.
    """

    probability: Probability = 0.5
    """Share of the images in which a box is covered."""
    area: Shares = (0.02, 0.4)
    """Smallest and largest area of the box, shares of the image's."""
    ratio: Ratios = (0.3, 1 / 0.3)
    """Smallest and largest height over width, drawn evenly in their logarithm."""
    fill: Literal["noise", "mean"] = "noise"
    """Its cover: noise, a colour for each pixel, or the data's mean colour."""


class BatchMixup(Spec):
    """Images blended with each other, and so their labels: Zhang et al. 2017, arXiv 1710.09412."""

    name: Literal["mixup"] = "mixup"
    alpha: Alpha = 0.2
    """Both parameters of the Beta distribution of an image's share, one draw a batch, a pure number."""
    probability: Probability = 1.0
    """Share of the batches that are mixed."""


class BatchCutMix(Spec):
    """A box of another image pasted into each, and the labels mixed by area: Yun et al. 2019, arXiv 1905.04899."""

    name: Literal["cutmix"] = "cutmix"
    alpha: Alpha = 1.0
    """Both parameters of the Beta distribution of an image's share, one draw and one box a batch, a pure number."""
    probability: Probability = 1.0
    """Share of the batches that are mixed."""


class BatchMixupOrCutMix(Spec):
    """Mixup for some batches, CutMix for the others."""

    name: Literal["mixup_or_cutmix"] = "mixup_or_cutmix"
    mixup_alpha: Alpha = 0.2
    """Mixup's alpha, a pure number."""
    cutmix_alpha: Alpha = 1.0
    """CutMix's alpha, a pure number."""
    switch_probability: Probability = 0.5
    """Share of the mixed batches that are mixed by CutMix."""
    probability: Probability = 1.0
    """Share of the batches that are mixed."""


Policy = RandAugmentPolicy | AutoAugmentPolicy | TrivialAugmentPolicy
Mix = BatchMixup | BatchCutMix | BatchMixupOrCutMix


class Augmentation(Spec):
    """Changes of each training image, with draws of its own, before any method reads it.

    In the order of the fields. A method's own views (mixup, cutmix, strong ones) are made of the result.
    """

    crop_padding: int = Field(default=0, ge=0, le=128)
    """Pixels of black added on every side before a crop of the old size at a random place; 0 leaves it out."""
    resized_crop: ResizedCrop | None = None
    """A crop that is scaled, in the place of the padded one."""
    flip: bool = False
    """Whether half of the images are mirrored left to right."""
    policy: Annotated[Policy, Field(discriminator="name")] | None = None
    """Changes of geometry and colour, drawn for each image; what comes in from outside is black."""
    erasing: Erasing | None = None
    """A box that is covered in some images."""
    cutout: float | None = Field(default=None, gt=0, le=1)
    """Side of a square of the data's mean colour that covers a region of each image, a share of the image's side; its
    centre may lie at the border. DeVries, Taylor 2017, arXiv 1708.04552: 0.5 for CIFAR-10, 0.25 for CIFAR-100."""
    mix: Annotated[Mix, Field(discriminator="name")] | None = None
    """Images of a batch mixed with each other, with draws that the batch shares. The larger share is always the
    image's own; cross-entropy counts both labels by their shares, methods that read labels see the image's own."""

    @model_validator(mode="after")
    def _one_crop(self) -> Augmentation:
        if self.crop_padding and self.resized_crop is not None:
            raise PydanticCustomError(
                "two_crops",
                "crop_padding is {found} and resized_crop is given too; one crop at most is wanted",
                {"found": self.crop_padding, "field": "resized_crop"},
            )
        return self
