"""WSLD: soft labels, weighted image by image by how much worse the student knows the label than the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap
from retort.methods.kd import divergences, same_classes

if TYPE_CHECKING:
    from torch import Tensor, nn

TEACHER_EPSILON = 1e-7


class WSLD(Method):
    """Weighted soft labels: KD's divergence from the teacher's softened probabilities, times a weight for each image.

    The weight is 0 for an image whose label the student is sure of, 1 - 1/e where it knows the label as well as the
    teacher, near 1 where it knows far less. It takes no gradient. The published term is a cross-entropy: it is larger
    by the weighted entropy of the teacher, has the same gradient, and may rise while the student learns, as the
    weights do. The authors' class leaves the teacher's mode as it finds it; here the teacher is in eval mode. For
    ImageNet they use temperature 2 and weight 2.5.
    """

    source: ClassVar[str] = (
        "Zhou, Song, Chen, Zhou, Wang, Yuan, Zhang: Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance "
        "Tradeoff Perspective, ICLR 2021, section 5, https://arxiv.org/abs/2102.00650"
    )
    formula: ClassVar[str] = (
        "weight * mean_n w_n * T^2 * KL(p_t(T) || p_s(T)), w = 1 - exp(-CE_s / CE_t), CE = -log p(y;1)"
    )
    label_weight: ClassVar[float | None] = 1.0
    reads_labels: ClassVar[bool] = True

    name: Literal["wsld"] = "wsld"
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T, a pure number that divides both networks' logits."""
    weight: float = Field(default=2.25, ge=0, le=1000)
    """Weight of the divergence, a pure number, before T^2."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER)})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`soft`, in nats per image times T^2."""
        student_NK, teacher_NK = same_classes(batch.student().logits, batch.teacher().logits)
        t = self.temperature
        divergences_N = divergences((student_NK / t).log_softmax(1), (teacher_NK / t).log_softmax(1))
        weights_N = image_weights(student_NK.detach(), teacher_NK, batch.targets)
        return {"soft": self.weight * t**2 * (weights_N * divergences_N).mean()}


def image_weights(student_NK: Tensor, teacher_NK: Tensor, labels_N: Tensor) -> Tensor:
    """(N,) one minus exp of the negative ratio of the student's cross-entropy to the teacher's, in [0, 1]."""
    from torch.nn import functional as F

    student_N, teacher_N = (F.cross_entropy(z_NK, labels_N, reduction="none") for z_NK in (student_NK, teacher_NK))
    return -(-student_N / (teacher_N + TEACHER_EPSILON)).expm1()
