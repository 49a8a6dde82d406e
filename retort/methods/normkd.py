"""NormKD: knowledge distillation at a temperature of each image's own, in proportion to its logits' spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap
from retort.methods.kd import divergences, same_classes

if TYPE_CHECKING:
    from torch import Tensor, nn

SMALLEST_SPREAD = 1e-7


class NormKD(Method):
    """KD with logits divided by temperature_norm standard deviations of their own, times the teacher's temperature^2.

    Each network has its own temperature for each image; the gradient goes through the student's. Constant logits,
    which the authors' code divides by 0, stay constant here. For ImageNet they use temperature_norm 1 and weight 0.5.
    """

    source: ClassVar[str] = (
        "Chi, Zheng, Li, Yang, Wu, Lin, Cai: NormKD: Normalized Logits for Knowledge Distillation, 2023, section 3, "
        "https://arxiv.org/abs/2308.00520"
    )
    formula: ClassVar[str] = (
        "weight * mean_n T_t^2 * KL(softmax(z_t / T_t) || softmax(z_s / T_s)), T = temperature_norm * std_k z"
    )
    label_weight: ClassVar[float | None] = 0.1
    with_two_classes: ClassVar[str] = (
        "two logits over their deviation differ by the same number whatever they are, so that soft has no gradient"
    )

    name: Literal["normkd"] = "normkd"
    temperature_norm: float = Field(default=2.0, gt=0, le=100)
    """An image's temperature in standard deviations of its logits, a pure number."""
    weight: float = Field(default=0.9, ge=0, le=1000)
    """Weight of the divergence, a pure number."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER)})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`soft`, in nats per image times the square of the teacher's temperature."""
        pair = same_classes(batch.student().logits, batch.teacher().logits)
        student_N1, teacher_N1 = (
            self.temperature_norm * z_NK.std(1, keepdim=True).clamp(min=SMALLEST_SPREAD) for z_NK in pair
        )
        student_NK, teacher_NK = pair
        divergences_N = divergences((student_NK / student_N1).log_softmax(1), (teacher_NK / teacher_N1).log_softmax(1))
        return {"soft": self.weight * (teacher_N1.squeeze(1) ** 2 * divergences_N).mean()}
