"""DIST: the student's probabilities correlate with the teacher's, image by image and class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap
from retort.methods.kd import same_classes

if TYPE_CHECKING:
    from torch import Tensor, nn

NORM_EPSILON = 1e-8


class DIST(Method):
    """Pearson distances between class probabilities: over the classes of an image, and over the images of a class.

    A constant row or column correlates with nothing: its distance is 1, without gradient. For ImageNet the authors use
    temperature 1.
    """

    source: ClassVar[str] = (
        "Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, section 3, "
        "https://arxiv.org/abs/2205.10536"
    )
    formula: ClassVar[str] = (
        "T^2 * [inter_weight * (1 - mean_n pearson(p_s[n], p_t[n])) + intra_weight * (1 - mean_k pearson(p_s[:, k], "
        "p_t[:, k]))], p = softmax(z / T)"
    )
    label_weight: ClassVar[float | None] = 1.0
    couples_batch: ClassVar[bool] = True
    with_two_classes: ClassVar[str] = (
        "the two probabilities of an image correlate by 1 or -1 whatever they are, so that inter has no gradient"
    )

    name: Literal["dist"] = "dist"
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T, a pure number that divides both networks' logits."""
    inter_weight: float = Field(default=2.0, ge=0, le=1000)
    """Weight of the distance over classes, a pure number, before T^2."""
    intra_weight: float = Field(default=2.0, ge=0, le=1000)
    """Weight of the distance over images, a pure number, before T^2."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER)})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`inter`, a mean over images; `intra`, a mean over classes."""
        pair = same_classes(batch.student().logits, batch.teacher().logits)
        student_NK, teacher_NK = ((z_NK / self.temperature).softmax(1) for z_NK in pair)
        squared = self.temperature**2
        return {
            "inter": self.inter_weight * squared * (1 - pearson(student_NK, teacher_NK, dim=1).mean()),
            "intra": self.intra_weight * squared * (1 - pearson(student_NK, teacher_NK, dim=0).mean()),
        }


def pearson(a_NK: Tensor, b_NK: Tensor, dim: int) -> Tensor:
    """Pearson's correlations along a dimension; 0 where one of the two is constant."""
    from torch.linalg import vector_norm

    a_NK, b_NK = (x_NK - x_NK.mean(dim, keepdim=True) for x_NK in (a_NK, b_NK))
    norms: Tensor = vector_norm(a_NK, dim=dim) * vector_norm(b_NK, dim=dim)
    return (a_NK * b_NK).sum(dim) / (norms + NORM_EPSILON)
