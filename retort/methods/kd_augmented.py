"""KD on augmented images: the teacher's soft labels on the images and on mixtures of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap
from retort.methods.kd import softened_divergence
from retort.view import CLEAN, CutMix, CutMixPick, Mixup, View

if TYPE_CHECKING:
    from torch import Tensor, nn

VIEWS: dict[str, View] = {
    "mixup": Mixup(alpha=1.0),
    "cutmix": CutMix(alpha=1.0),
    "cutmix_pick": CutMixPick(alpha=1.0, runs=2),
}


class KDAugmented(Method):
    """KD's divergence on the clean images, plus the same on mixed ones, without labels on either.

    The teacher's output on the mixed image is the target; the two labels are not mixed and play no part there. The
    fewer the teacher's mean probabilities vary between draws of a view, the better it serves; gains grow with longer
    training.
    """

    source: ClassVar[str] = (
        'Wang, Lohit, Jones, Fu: What Makes a "Good" Data Augmentation in Knowledge Distillation - A Statistical '
        "Perspective, NeurIPS 2022, section 3, https://arxiv.org/abs/2012.02909"
    )
    formula: ClassVar[str] = "weight * [KL_T(x) + KL_T(mixed x)], KL_T = T^2 * mean_n KL(p_t(T) || p_s(T))"
    label_weight: ClassVar[float | None] = 0.1

    name: Literal["kd_augmented"] = "kd_augmented"
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T, a pure number that divides both networks' logits."""
    weight: float = Field(default=0.9, ge=0, le=1000)
    """Weight of each of the two divergences, a pure number."""
    augmentation: Literal["mixup", "cutmix", "cutmix_pick"] = "cutmix_pick"
    """Mixing of the second view; `cutmix_pick` takes, of two cutmix batches, those of the teacher's highest entropy."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset(Tap(network, "logits", view) for network in (STUDENT, TEACHER) for view in (CLEAN, self._view))

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`soft` on the clean images, `augmented_soft` on the mixed ones, in nats per image times T^2."""
        soft, augmented = (
            softened_divergence(batch.student(view).logits, batch.teacher(view).logits, self.temperature)
            for view in (CLEAN, self._view)
        )
        return {"soft": self.weight * soft, "augmented_soft": self.weight * augmented}

    @property
    def _view(self) -> View:
        return VIEWS[self.augmentation]
