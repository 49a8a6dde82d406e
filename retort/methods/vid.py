"""VID: the mutual information between the student's maps and the teacher's is maximised."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import Batch, LiveSetup, Method, Setup, Tap
from retort.methods._maps import BOTH_MAPS, by_stage, cards, check_stages, paired, same_size, stage_maps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._layers import GaussianRegressor


class VID(Method):
    """Variational information distillation: how unlikely the teacher's maps are under a normal distribution whose mean
    is regressed from the student's maps and whose variance is trained, one a channel.

    It bounds the information that the two networks share from below, so the constant of the normal distribution is
    left out and values may be negative. All stages but the first are compared, the last with the last; the larger map
    is averaged to the smaller one's size before the regression.
    """

    source: ClassVar[str] = (
        "Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer, CVPR 2019, "
        "section 2, https://arxiv.org/abs/1904.05835"
    )
    formula: ClassVar[str] = (
        "weight * sum_stages mean_{n,c,hw} 1/2 [(mu(F_s) - F_t)^2 / v_c + log v_c], v = log(1 + exp(a)) + smallest"
    )
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = "networks of one stage"

    name: Literal["vid"] = "vid"
    weight: float = Field(default=1.0, gt=0, le=1000)
    """Weight of all stages, a pure number."""
    smallest_variance: float = Field(default=1e-5, gt=0, le=1)
    """Lower bound of each channel's variance, in squared units of the teacher's maps."""

    def check(self, setup: Setup) -> None:
        check_stages(setup)

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return BOTH_MAPS

    def modules(self, setup: LiveSetup) -> nn.ModuleList:
        from torch import nn

        from retort.methods._layers import GaussianRegressor

        student, teacher = cards(setup)
        return nn.ModuleList(
            GaussianRegressor(s.channels, t.channels, smallest_variance=self.smallest_variance)
            for s, t in paired(student.stages, teacher.stages)
        )

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """A term for each pair of stages, in nats per element without its constant."""
        regressors = cast("Iterable[GaussianRegressor]", modules)
        pairs = zip(regressors, stage_maps(batch), strict=True)
        return by_stage(self.weight * surprise(regressor, *same_size(*pair)) for regressor, pair in pairs)


def surprise(regressor: GaussianRegressor, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    """Negative log likelihood of the teacher's map without its constant, a mean over elements."""
    mean_NCHW, variance_C11 = regressor(student_NCHW)
    surprises_NCHW: Tensor = (mean_NCHW - teacher_NCHW).square() / variance_C11 + variance_C11.log()
    return 0.5 * surprises_NCHW.mean()
