"""FitNet: a map in the middle of the student, after a trained convolution, gives the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import Batch, LiveSetup, Method, Setup, Tap, at_least_float32
from retort.methods._maps import BOTH_MAPS, check_both, same_size, shapes

if TYPE_CHECKING:
    from torch import Tensor, nn


class FitNet(Method):
    """Hints: mean squared error between a map of the teacher and the student's after a trained regressor.

    r is a convolution with batch norm and ReLU that brings the student's map to the teacher's channels and size. Where
    the student's map is smaller, but not half as large, no convolution is published with this loss: r keeps the size
    and the teacher's map is averaged to it, as the authors of SimKD do. The paper trains the hint first and the rest
    after it; here, as in later comparisons, both are trained together.
    """

    source: ClassVar[str] = (
        "Romero, Ballas, Kahou, Chassang, Gatta, Bengio: FitNets: Hints for Thin Deep Nets, ICLR 2015, equation 3, "
        "https://arxiv.org/abs/1412.6550"
    )
    formula: ClassVar[str] = "weight * mean_{n,c,hw} (r(F_s) - F_t)^2, r = relu(bn(conv))"
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = "networks with fewer stages than the hint is counted from the last"

    name: Literal["fitnet"] = "fitnet"
    weight: float = Field(default=100.0, gt=0, le=1_000_000)
    """Weight of the error, a pure number."""
    stage: int = Field(default=2, ge=1, le=8)
    """Stage of the hint in both networks, counted from the last one, which is 1. The published hint of a ResNet for
    small images is 2."""

    def check(self, setup: Setup) -> None:
        check_both(
            setup,
            lambda card: len(card.stages) >= self.stage,
            f"has no stage {self.stage}, counted from the last; give a smaller one",
        )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return BOTH_MAPS

    def modules(self, setup: LiveSetup) -> nn.Module:
        from torch import nn

        from retort.methods._layers import MapRegressor

        student, teacher = shapes(setup)
        return nn.Sequential(MapRegressor(student[-self.stage], teacher[-self.stage]), nn.ReLU())

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`hint`, a mean over all elements."""
        from torch.nn.functional import mse_loss

        regressor = cast("nn.Module", modules)
        student_NCHW, teacher_NCHW = (
            at_least_float32(outputs.maps[-self.stage]) for outputs in (batch.student(), batch.teacher())
        )
        return {"hint": self.weight * mse_loss(*same_size(regressor(student_NCHW), teacher_NCHW))}
