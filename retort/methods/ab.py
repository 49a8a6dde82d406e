"""AB: before it learns from labels, the student's neurons learn for which images the teacher's are active."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import Batch, LiveSetup, Method, Phase, Setup, Tap
from retort.methods._maps import (
    BOTH_PREACTIVATIONS,
    by_stage,
    check_preactivations,
    check_stages,
    paired,
    same_size,
    shapes,
    stage_maps,
)

if TYPE_CHECKING:
    from torch import Tensor, nn


class AB(Method):
    """Activation boundaries: in a phase before the loop, a squared hinge loss by which the student's neurons are
    active, with a margin, where the teacher's are.

    s and t are the maps before their activation, s after a trained connector where channels or sizes differ: FitNet's
    regressor without its ReLU. All stages but the first are compared, the last with the last; a stage weighs twice as
    much as the one before it. In the loop itself the student learns from labels and whatever other methods it has.
    """

    source: ClassVar[str] = (
        "Heo, Lee, Yun, Choi: Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons, "
        "AAAI 2019, https://arxiv.org/abs/1811.03233"
    )
    formula: ClassVar[str] = (
        "weight * sum_i 2^(i - n + 1) * mean_n sum_{c,hw} [(s + m)^2 1(s > -m, t <= 0) + (s - m)^2 1(s <= m, t > 0)], "
        "stages i = 0, ..., n - 1"
    )
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = "networks whose maps cannot be read before their activation, and networks of one stage"

    name: Literal["ab"] = "ab"
    weight: float = Field(default=0.003, gt=0, le=1000)
    """Weight of all stages, a pure number."""
    margin: float = Field(default=1.0, ge=0, le=100)
    """m, how far from zero the student's neurons shall be, in units of their activation."""
    epochs: int = Field(default=30, ge=1, le=10_000)
    """Epochs of the phase, before those of the recipe."""

    def check(self, setup: Setup) -> None:
        check_stages(setup)
        check_preactivations(setup)

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset()

    def modules(self, setup: LiveSetup) -> nn.ModuleList:
        from torch import nn

        from retort.methods._layers import MapRegressor

        pairs = paired(*shapes(setup))
        return nn.ModuleList(nn.Identity() if s == t else MapRegressor(s, t) for s, t in pairs)

    def phases(self, setup: Setup) -> tuple[Phase, ...]:
        return (Phase("boundaries", self.epochs, BOTH_PREACTIVATIONS, self._boundaries),)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """Nothing: what the method does is done before the loop."""
        return {}

    def _boundaries(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """A term for each pair of stages, a mean over images, a sum over elements."""
        connectors, pairs = cast("Iterable[nn.Module]", modules), stage_maps(batch, "preactivations")
        terms = [
            2.0 ** (i - len(pairs) + 1) * self._hinges(*same_size(connector(student_NCHW), teacher_NCHW))
            for i, (connector, (student_NCHW, teacher_NCHW)) in enumerate(zip(connectors, pairs, strict=True))
        ]
        return by_stage(self.weight * term for term in terms)

    def _hinges(self, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
        above_NCHW = (student_NCHW + self.margin).relu().square()
        below_NCHW = (self.margin - student_NCHW).relu().square()
        return below_NCHW.where(teacher_NCHW > 0, above_NCHW).sum((1, 2, 3)).mean()
