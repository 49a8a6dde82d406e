"""KD: the student imitates the teacher's softened class probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import (
    STUDENT,
    TEACHER,
    Batch,
    Method,
    MethodError,
    Setup,
    Tap,
    at_least_float32,
    from_top,
    top_logits,
)
from retort.view import CLEAN

if TYPE_CHECKING:
    from torch import Tensor, nn


class KD(Method):
    """Knowledge distillation: T^2 KL(teacher || student) between class probabilities softened by T."""

    source: ClassVar[str] = (
        "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 2, "
        "https://arxiv.org/abs/1503.02531"
    )
    formula: ClassVar[str] = "weight * T^2 * mean_n sum_k p_t(k;T) [log p_t(k;T) - log p_s(k;T)]"
    label_weight: ClassVar[float | None] = 0.1
    refuses: ClassVar[str] = "as many of the teacher's largest logits as there are classes, or more"

    name: Literal["kd"] = "kd"
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T, a pure number that divides both networks' logits; 1 leaves them as they are."""
    weight: float = Field(default=0.9, ge=0, le=1000)
    """Weight of the divergence, a pure number."""
    teacher_top: int | None = Field(default=None, ge=1, le=32_767)
    """Number of the teacher's largest logits that are used, the others replaced by their mean; null uses all. With many
    classes the teacher cache then takes less room."""

    def check(self, setup: Setup) -> None:
        if self.teacher_top is not None and self.teacher_top >= setup.outputs:
            raise MethodError(
                f"teacher_top is {self.teacher_top}; it must be less than the {setup.outputs} classes of the data"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER, top=self.teacher_top)})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`soft`, in nats per image times T^2."""
        return self.terms_at(self.temperature, batch)

    def terms_at(self, temperature: float | Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms at another temperature, which may be one that is trained."""
        teacher_NK = batch.teacher(CLEAN).logits
        if self.teacher_top is not None:
            teacher_NK = from_top(*top_logits(teacher_NK, self.teacher_top), teacher_NK.shape[1])
        divergence = softened_divergence(batch.student(CLEAN).logits, teacher_NK, temperature)
        return {"soft": self.weight * divergence}


def softened_divergence(student_NK: Tensor, teacher_NK: Tensor, temperature: float | Tensor) -> Tensor:
    """T^2 KL(teacher || student) of class probabilities softened by T, a mean over images in nats.

    Without the T^2 its gradient would shrink as 1 / T^2. Raises MethodError when the two score other classes.
    """
    from torch.nn import functional as F

    student_NK, teacher_NK = same_classes(student_NK, teacher_NK)
    log_q_NK, log_p_NK = (student_NK / temperature).log_softmax(1), (teacher_NK / temperature).log_softmax(1)
    return F.kl_div(log_q_NK, log_p_NK, reduction="batchmean", log_target=True) * temperature**2


def divergences(log_q: Tensor, log_p: Tensor) -> Tensor:
    """(N,) KL(p || q) of each row of two tensors of log-probabilities, in nats."""
    from torch.nn import functional as F

    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def same_classes(student_NK: Tensor, teacher_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Both networks' logits in float32 at least. Raises MethodError when they score different numbers of classes."""
    if student_NK.shape != teacher_NK.shape:
        raise MethodError(f"the student gives {student_NK.shape[1]} classes, the teacher {teacher_NK.shape[1]}")
    return at_least_float32(student_NK), at_least_float32(teacher_NK)
