"""Views: the copies of a training image that a method may ask for.

A view is a frozen description. Equal views of several methods and students are made once a batch by the engine
(`worker/engine/views.py`), with draws that depend on nothing but the data's seed, the epoch, the sample and the view.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from worker.spec import Spec


class View(Spec):
    """A copy of the image under the recipe's own augmentation, changed further."""


class Clean(View):
    """The image under the recipe's own augmentation (crop, flip), and nothing else."""

    kind: Literal["clean"] = "clean"


class Mixup(View):
    """Two images blended: lambda x + (1 - lambda) x', lambda ~ Beta(alpha, alpha), one lambda a batch."""

    kind: Literal["mixup"] = "mixup"
    alpha: float = Field(default=0.2, gt=0)
    """Both parameters of the Beta distribution, a pure number."""


class CutMix(View):
    """A box of another image pasted in, one box a batch, of area 1 - lambda, lambda ~ Beta(alpha, alpha)."""

    kind: Literal["cutmix"] = "cutmix"
    alpha: float = Field(default=1.0, gt=0)
    """Both parameters of the Beta distribution, a pure number."""


class Cutout(View):
    """A square of the data's mean colour at a place of its own in each image; its centre may lie at the border."""

    kind: Literal["cutout"] = "cutout"
    share: float = Field(default=0.25, gt=0, le=1)
    """Side of the square as a share of the image's side."""


CLEAN = Clean()
