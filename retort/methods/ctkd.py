"""CTKD: another logit method at a temperature that is trained against the student."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, cast

from pydantic import Field

from retort.method import Batch, LiveSetup, Method, MethodError, Setup, Tap
from retort.methods.dkd import DKD
from retort.methods.kd import KD

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class CTKD(Method):
    """Curriculum temperature: one trained temperature for all images, whose gradient is reversed.

    The gradient that reaches theta is multiplied by a factor that falls over the first epochs as a cosine, from 0 to
    -1: the temperature learns to make the task harder. The student's gradient is not reversed. T^2 is part of what is
    differentiated. The authors count epochs from 1, so the first one has the cosine's second value. Their program's
    own defaults turn the method off (a factor of 0); the defaults here are those of their scripts. Beside DKD they
    have cross-entropy weigh 1 and no warm-up, which is warmup_epochs 1. The paper's other form, a temperature for each
    image, is left out.
    """

    source: ClassVar[str] = (
        "Li, Li, Yang, Zhao, Song, Luo, Li, Yang: Curriculum Temperature for Knowledge Distillation, AAAI 2023, "
        "section 3, https://arxiv.org/abs/2211.16231"
    )
    formula: ClassVar[str] = (
        "the base's formula at T = t_start + t_end * sigmoid(theta), theta's gradient times lambda = decay_min + "
        "(decay_max - decay_min) * (1 + cos(pi * min(epoch / decay_loops, 1))) / 2"
    )
    label_weight: ClassVar[float | None] = 0.1
    refuses: ClassVar[str] = "a base with a temperature of its own"
    reads_labels: ClassVar[bool] = True  # with the base dkd

    name: Literal["ctkd"] = "ctkd"
    base: Annotated[KD | DKD, Field(discriminator="name")] = KD()
    """The method that is computed at the trained temperature; its own temperature is left out."""
    t_start: float = Field(default=1.0, gt=0, le=100)
    """The lowest temperature, a pure number."""
    t_end: float = Field(default=20.0, ge=0, le=100)
    """The width of the temperature's range, a pure number; the highest is t_start + t_end."""
    decay_max: float = Field(default=0.0, ge=-10, le=10)
    """Factor of theta's gradient at epoch 0, a pure number."""
    decay_min: float = Field(default=-1.0, ge=-10, le=10)
    """The same from epoch decay_loops on; below 0 the temperature climbs the loss."""
    decay_loops: int = Field(default=10, ge=1)
    """Epochs from the one to the other; 5 for ImageNet."""

    def check(self, setup: Setup) -> None:
        self.base.check(setup)
        default = type(self.base)().temperature
        if self.base.temperature != default:
            raise MethodError(
                f"the temperature is trained, but base.temperature is {self.base.temperature:g}; leave it out"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return self.base.taps(setup)

    def modules(self, setup: LiveSetup) -> nn.ParameterDict:
        import torch
        from torch import nn

        return nn.ParameterDict({"theta": nn.Parameter(torch.ones(()))})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """The base's terms."""
        theta = cast("nn.ParameterDict", modules)["theta"]
        return self.base.terms_at(self._temperature(theta, batch), batch)

    def _temperature(self, theta: Tensor, batch: Batch) -> Tensor:
        """T, 0-d, whose gradient to theta is multiplied by lambda."""
        reversed_part = self._gradient_factor(batch.epoch, theta.dtype) * theta
        # The value is theta, the gradient lambda.
        return self.t_start + self.t_end * (reversed_part + (theta - reversed_part).detach()).sigmoid()

    def _gradient_factor(self, epoch: Tensor, dtype: torch.dtype) -> Tensor:
        """lambda, 0-d."""
        share = (epoch + 1).clamp(0, self.decay_loops).to(dtype) / self.decay_loops
        return self.decay_min + (self.decay_max - self.decay_min) * (1 + (math.pi * share).cos()) / 2
