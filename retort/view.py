"""Views: the copies of a training image that methods may read.

A view is a frozen description. Equal views of several methods and students are made once a batch by the engine
(`retort/images/views.py`), with draws that depend on nothing but the data's seed, the epoch, the sample and the view.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class View:
    """A copy of the image under the recipe's own augmentation, changed further."""

    asks_teacher: ClassVar[bool] = False
    """True if it depends on the teacher's outputs for an earlier view; its own are then never cached."""


@dataclass(frozen=True)
class Clean(View):
    """The image under the recipe's own augmentation (crop, flip), and nothing else."""


@dataclass(frozen=True)
class Mixup(View):
    """Two images blended: lambda x + (1 - lambda) x', lambda ~ Beta(alpha, alpha), one lambda a batch."""

    alpha: float = 0.2
    """Both parameters of the Beta distribution, a pure number above 0."""


@dataclass(frozen=True)
class CutMix(View):
    """A box of another image pasted in, one box a batch, of area 1 - lambda, lambda ~ Beta(alpha, alpha)."""

    alpha: float = 1.0
    """Both parameters of the Beta distribution, a pure number above 0."""


@dataclass(frozen=True)
class Cutout(View):
    """A square of the data's mean colour at a place of its own in each image; its centre may lie at the border."""

    share: float = 0.25
    """Side of the square as a share of the image's side, in (0, 1]."""


@dataclass(frozen=True)
class CutMixPick(View):
    """Of `runs` cutmix batches, as many images as one holds: those on which the teacher's entropy is highest."""

    asks_teacher: ClassVar[bool] = True

    alpha: float = 1.0
    """Both parameters of the Beta distribution, a pure number above 0."""
    runs: int = 2
    """Batches made to pick from."""


@dataclass(frozen=True)
class RandAugment(View):
    """Some of fourteen changes of geometry and colour, drawn for each image, all of one strength."""

    operations: int = 2
    """Number drawn for an image, one after the other; the same one may come twice."""
    magnitude: int = 10
    """Strength, a whole number in [0, 30]."""


@dataclass(frozen=True)
class AutoAugment(View):
    """One of 25 learned pairs of changes, drawn for each image."""

    policy: Literal["cifar10", "imagenet"] = "cifar10"
    """The data on which the pairs were learned."""


CLEAN = Clean()


@dataclass(frozen=True)
class Mixing:
    """The mixture of two clean examples each that a view is made of."""

    image: Tensor
    """(N,) int64 position in the batch of the image itself; 0, 1, 2, ... unless the view picks among several."""
    partner: Tensor
    """(N,) int64 position in the batch of the image mixed in."""
    weight: Tensor
    """(N,) float32 share of the image itself, lambda, in [0, 1]."""


@dataclass(frozen=True)
class ViewBatch:
    """A view of a batch as networks read it, and how it was mixed, if it was."""

    inputs: Tensor
    """(N, 3, H, W) float32 RGB in [0, 1] for image tasks."""
    mixed: Mixing | None = None
