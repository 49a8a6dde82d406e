"""WTTM: transformed teacher matching, weighted image by image by how smooth the teacher is."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap
from retort.methods.kd import divergences, same_classes

if TYPE_CHECKING:
    from torch import Tensor, nn


class WTTM(Method):
    """Weighted TTM: U * KL(q || p_s), q the teacher's probabilities to a power, normalised by their sum U.

    U is 1 for a teacher that is sure and K^(1 - power) for one that knows nothing, and is not normalised over the
    batch. The published weight depends on the pair, from 1.4 to 16; 3 is the commonest and is for resnet32x4 to
    resnet8x4. For ImageNet the authors use power 0.8 and weight 1.6 (ResNet-34 to ResNet-18).
    """

    source: ClassVar[str] = (
        "Zheng, Yang: Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, section 4 and table 8, "
        "https://arxiv.org/abs/2402.11148"
    )
    formula: ClassVar[str] = "weight * mean_n U * KL(q || p_s), q = p_t^power / U, U = sum_k p_t(k)^power"
    label_weight: ClassVar[float | None] = 1.0

    name: Literal["wttm"] = "wttm"
    power: float = Field(default=0.1, gt=0, le=10)
    """The exponent of the teacher's probabilities, a pure number; 1 leaves them as they are."""
    weight: float = Field(default=3.0, ge=0, le=1000)
    """Weight of the divergence, a pure number."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER)})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`soft`, in nats per image times U."""
        student_NK, teacher_NK = same_classes(batch.student().logits, batch.teacher().logits)
        powers_NK = self.power * teacher_NK.log_softmax(1)
        divergences_N = divergences(student_NK.log_softmax(1), powers_NK.log_softmax(1))
        return {"soft": self.weight * (powers_NK.logsumexp(1).exp() * divergences_N).mean()}
