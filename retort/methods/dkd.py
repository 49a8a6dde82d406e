"""DKD: knowledge distillation in two parts, the label against the rest and the rest among itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap
from retort.methods.kd import divergences, same_classes
from retort.view import CLEAN

if TYPE_CHECKING:
    from torch import Tensor, nn


class DKD(Method):
    """Decoupled KD: one divergence between label and all other classes, one among the other classes, each weighted.

    Both weights grow over the first epochs as min(epoch / warmup_epochs, 1). The authors count epochs from 1, so the
    first one has 1 / warmup_epochs. A large beta without this warm-up diverges early. For ImageNet they use
    temperature 1, beta 0.5 (ResNet-34 to ResNet-18) or 2 (ResNet-50 to MobileNet), and no warm-up.
    """

    source: ClassVar[str] = (
        "Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, CVPR 2022, equation 7, "
        "https://arxiv.org/abs/2203.08679"
    )
    formula: ClassVar[str] = (
        "min(epoch / warmup_epochs, 1) * T^2 * mean_n [alpha * KL(b_t || b_s) + beta * KL(q_t || q_s)], "
        "b = (p_y, 1 - p_y), q = softmax of z / T without the label's class y"
    )
    label_weight: ClassVar[float | None] = 1.0
    reads_labels: ClassVar[bool] = True
    with_two_classes: ClassVar[str] = "one class is left beside the label's, so that non_target is always 0"

    name: Literal["dkd"] = "dkd"
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T, a pure number that divides both networks' logits."""
    alpha: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the label against the rest, a pure number."""
    beta: float = Field(default=8.0, ge=0, le=1000)
    """Weight of the rest among itself, a pure number: 8 for teachers resnet32x4 and ResNet50, 6 for wrn_40_2 and
    vgg13, 2 for resnet56 and resnet110."""
    warmup_epochs: int = Field(default=20, ge=1)
    """Epochs until both weights are reached; 1 is no warm-up."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT), Tap(TEACHER)})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`target` and `non_target`, in nats per image times T^2."""
        return self.terms_at(self.temperature, batch)

    def terms_at(self, temperature: float | Tensor, batch: Batch) -> dict[str, Tensor]:
        """The terms at another temperature, which may be one that is trained."""
        target, non_target = decoupled_divergences(
            batch.student(CLEAN).logits, batch.teacher(CLEAN).logits, batch.targets, temperature
        )
        warm = ((batch.epoch + 1).to(target.dtype) / self.warmup_epochs).clamp(max=1)
        return {"target": warm * self.alpha * target, "non_target": warm * self.beta * non_target}


def decoupled_divergences(
    student_NK: Tensor, teacher_NK: Tensor, labels_N: Tensor, temperature: float | Tensor
) -> tuple[Tensor, Tensor]:
    """T^2 times the divergence between label and rest, and times that among the rest; means over images in nats."""
    pair = same_classes(student_NK, teacher_NK)
    (log_b_s, log_q_s), (log_b_t, log_q_t) = (split_target(z_NK / temperature, labels_N) for z_NK in pair)
    squared = temperature**2
    return divergences(log_b_s, log_b_t).mean() * squared, divergences(log_q_s, log_q_t).mean() * squared


def split_target(z_NK: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the label's class and of all others together (N, 2), and those among the others (N, K - 1).

    They stay exact where the label's probability rounds to 1.
    """
    import torch

    log_p_NK = z_NK.log_softmax(1)
    others = torch.arange(z_NK.shape[1] - 1, device=z_NK.device)
    others_NJ = others + (others >= labels_N[:, None])  # all classes but the label's
    target_N1, others_NJ = log_p_NK.gather(1, labels_N[:, None]), log_p_NK.gather(1, others_NJ)
    rest_N1 = others_NJ.logsumexp(1, keepdim=True)
    return torch.cat([target_N1, rest_N1], dim=1), others_NJ - rest_N1
