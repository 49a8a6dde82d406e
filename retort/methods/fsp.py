"""FSP: before it learns from labels, the student learns how the teacher's maps follow from one another."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import Batch, Method, MethodError, Phase, Setup, Tap
from retort.methods._maps import BOTH_MAPS, by_stage, cards, check_both, paired, stage_maps

if TYPE_CHECKING:
    from torch import Tensor, nn


class FSP(Method):
    """Flow of the solution procedure: in a phase before the loop, the products of the channels of neighbouring stages,
    as in the teacher.

    G is N matrices, a row for each channel of one stage and a column for each of the next; the larger of the two maps
    is pooled to the smaller one's size. The stem counts as a stage. Channels must be the same in both networks. In the
    loop itself the student learns from labels and whatever other methods it has. `paper` is the paper's squared
    Frobenius norm with pooling by the maximum, as far as it is known; the weight 50 belongs to `mean`.
    """

    source: ClassVar[str] = (
        "Yim, Joo, Bae, Kim: A Gift from Knowledge Distillation, CVPR 2017, equations 1 and 2, "
        "https://openaccess.thecvf.com/content_cvpr_2017/html/Yim_A_Gift_From_CVPR_2017_paper.html"
    )
    formula: ClassVar[str] = (
        "weight * sum_pairs mean_{n,cd} (G_s - G_t)^2, or mean_n |G_s - G_t|_F^2, G_cd = mean_hw F_c F'_d"
    )
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = "networks whose stages differ in channels, and networks of one stage"

    name: Literal["fsp"] = "fsp"
    weight: float = Field(default=50.0, gt=0, le=1_000_000)
    """Weight of all pairs of stages, a pure number."""
    epochs: int = Field(default=30, ge=1, le=10_000)
    """Epochs of the phase, before those of the recipe."""
    form: Literal["mean", "paper"] = "mean"
    """`mean`: maps are averaged to one size, the error is a mean over the matrix. `paper`: maps are pooled by their
    maximum, the error is a sum."""

    def check(self, setup: Setup) -> None:
        check_both(setup, lambda card: len(card.stages) > 1, "has one stage; its flow needs 2")
        student, teacher = cards(setup)
        pairs = paired(student.stages, teacher.stages, first=True)
        channels = [[stage.channels for stage in stages] for stages in zip(*pairs, strict=True)]
        if channels[0] != channels[1]:
            raise MethodError(
                f"the stages of the student {student.architecture} have {channels[0]} channels, those of the teacher "
                f"{teacher.architecture} {channels[1]}; they must be the same"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset()

    def phases(self, setup: Setup) -> tuple[Phase, ...]:
        return (Phase("flow", self.epochs, BOTH_MAPS, self._flow),)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """Nothing: what the method does is done before the loop."""
        return {}

    def _flow(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """A term for each two neighbouring stages, a mean over images."""
        student, teacher = zip(*stage_maps(batch, first=True), strict=True)
        pairs = zip(self._flows(student), self._flows(teacher), strict=True)
        return by_stage(self.weight * self._distance(*pair) for pair in pairs)

    def _flows(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """(N, C, D) for each map and the next one, of C and D channels."""
        return [self._products(*pair) for pair in pairwise(maps)]

    def _products(self, map_NCHW: Tensor, next_NDHW: Tensor) -> Tensor:
        from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d

        pool = adaptive_avg_pool2d if self.form == "mean" else adaptive_max_pool2d
        size = min(map_NCHW.shape[2], next_NDHW.shape[2]), min(map_NCHW.shape[3], next_NDHW.shape[3])
        map_NCS, next_NDS = pool(map_NCHW, size).flatten(2), pool(next_NDHW, size).flatten(2)
        return map_NCS @ next_NDS.mT / map_NCS.shape[2]

    def _distance(self, student_NCD: Tensor, teacher_NCD: Tensor) -> Tensor:
        squares_NCD = (student_NCD - teacher_NCD).square()
        return squares_NCD.mean() if self.form == "mean" else squares_NCD.sum((1, 2)).mean()
