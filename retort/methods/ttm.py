"""TTM: the student, at temperature 1, matches the teacher's probabilities raised to a power."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap
from retort.methods.kd import divergences, same_classes

if TYPE_CHECKING:
    from torch import Tensor, nn


class TTM(Method):
    """Transformed teacher matching: KL(q || p_s), q the teacher's probabilities to a power, normalised.

    A power g is a temperature of 1 / g on the teacher's side alone; the student keeps 1, hence no T^2. The published
    weight depends on the pair, from 7 to 101; 45 is for vgg13 to vgg8. The authors' code leaves the teacher as it is
    unless the power is given.
    """

    source: ClassVar[str] = (
        "Zheng, Yang: Knowledge Distillation Based on Transformed Teacher Matching, ICLR 2024, section 3 and table 8, "
        "https://arxiv.org/abs/2402.11148"
    )
    formula: ClassVar[str] = "weight * mean_n KL(q || p_s), q = p_t^power / sum_k p_t(k)^power"
    label_weight: ClassVar[float | None] = 1.0

    name: Literal["ttm"] = "ttm"
    power: float = Field(default=0.1, gt=0, le=10)
    """The exponent of the teacher's probabilities, a pure number; 1 leaves them as they are."""
    weight: float = Field(default=45.0, ge=0, le=1000)
    """Weight of the divergence, a pure number."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER)})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`soft`, in nats per image."""
        student_NK, teacher_NK = same_classes(batch.student().logits, batch.teacher().logits)
        divergences_N = divergences(student_NK.log_softmax(1), (self.power * teacher_NK).log_softmax(1))
        return {"soft": self.weight * divergences_N.mean()}
