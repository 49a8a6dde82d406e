"""CMKD: the student's probabilities and class ranks correlate with the teacher's. A reconstruction."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap
from retort.methods.dist import pearson
from retort.methods.kd import same_classes
from retort.methods.lskd import standardised
from retort.methods.r2kd import hard_ranks, soft_ranks

if TYPE_CHECKING:
    from torch import Tensor, nn


class CMKD(Method):
    """Correlation matching: Pearson's distance of probabilities and Spearman's of class ranks, weighted for each image.

    A reconstruction: the abstract and reviews describe both correlations, of logits standardised first, of a
    differentiable sort and of weights by an image's difficulty, but the equations could not be read and no code was
    published. Difficulty is taken as the teacher's entropy over log K: the harder the image, the more ranks count and
    the less probabilities. The student's ranks are soft, those of R2KD; the teacher's are whole numbers. So the rank
    part of two equal networks is near 0, and 0 only as rank_softness tends to 0. All defaults are guesses.
    """

    source: ClassVar[str] = (
        "Niu, Wang, Cai, Hou: Efficient and Robust Knowledge Distillation from A Stronger Teacher Based on Correlation "
        "Matching, 2024, https://arxiv.org/abs/2410.06561"
    )
    formula: ClassVar[str] = (
        "weight * mean_n [(1 - w_n) * (1 - pearson(softmax(s / T), softmax(t / T))) + w_n * (1 - pearson(softrank(s), "
        "rank(t)))], s and t standardised logits, w = entropy(p_t) / log K"
    )
    reconstruction: ClassVar[bool] = True
    with_two_classes: ClassVar[str] = (
        "two probabilities correlate by 1 or -1 whatever they are, so that no term has a gradient"
    )

    name: Literal["cmkd"] = "cmkd"
    temperature: float = Field(default=2.0, gt=0, le=100)
    """T, a pure number that divides the standardised logits."""
    weight: float = Field(default=8.0, ge=0, le=1000)
    """Weight of both distances together, a pure number."""
    rank_softness: float = Field(default=0.1, gt=0, le=10)
    """Width of the soft rank's sigmoids, in standard deviations of an image's logits."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER)})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`value` and `rank`, means over images."""
        pair = same_classes(batch.student().logits, batch.teacher().logits)
        hard_N = difficulties(pair[1])
        student_NK, teacher_NK = map(standardised, pair)
        t = self.temperature
        value_N = 1 - pearson((student_NK / t).softmax(1), (teacher_NK / t).softmax(1), dim=1)
        rank_N = 1 - pearson(soft_ranks(student_NK, self.rank_softness), hard_ranks(teacher_NK), dim=1)
        return {
            "value": self.weight * ((1 - hard_N) * value_N).mean(),
            "rank": self.weight * (hard_N * rank_N).mean(),
        }


def difficulties(teacher_NK: Tensor) -> Tensor:
    """(N,) entropy of the teacher's class probabilities, as a share of the highest possible, log K."""
    log_p_NK = teacher_NK.log_softmax(1)
    return -(log_p_NK.exp() * log_p_NK).sum(1) / math.log(teacher_NK.shape[1])
