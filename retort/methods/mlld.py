"""MLLD: predictions aligned image by image, over the batch and over the classes, on two views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap, at_least_float32
from retort.methods.kd import divergences, same_classes, softened_divergence
from retort.spec import AtMost
from retort.view import CLEAN, RandAugment

if TYPE_CHECKING:
    from torch import Tensor, nn

    Pair = tuple[Tensor, Tensor]
    """The student's logits and the teacher's, (N, K)."""

STRONG = RandAugment(operations=2, magnitude=10)

SLIPPED = (2.0, 6.0)
"""The further temperatures at which the authors' code reads the clean images in the place of the strong view."""


class MLLD(Method):
    """Multi-level logit distillation: KD, and squared distances of image-to-image and class-to-class products.

    All is summed over several temperatures, and over the clean images and a strongly augmented view. The labels of the
    strong view are a term of this method; those of the clean images are the recipe's. `form` chooses: `paper` is all of
    that; `masked` leaves out, of the clean images' KD, those whose teacher is surer than the batch's median, as the
    authors' code was evidently meant to; `published` is that code. It multiplies each clean part by the share of images
    (of classes, for the class part) at or below the median, reads the clean images again for the strong view's KD at
    the temperatures 2 and 6, and leaves out the strong view's batch and class parts. Same-architecture pairs were
    published at learning rate 0.025, others with 480 and 960 epochs, so figures do not compare with other methods'.
    """

    source: ClassVar[str] = (
        "Jin, Wang, Lin: Multi-Level Logit Distillation, CVPR 2023, section 3, "
        "https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"
    )
    formula: ClassVar[str] = (
        "sum over views and T: weight * [T^2 * KL(P_t || P_s) + |P_t P_t' - P_s P_s'|^2 / N + |P_t' P_t - P_s' P_s|^2 "
        "/ K], P = softmax(z / T) of all images, plus strong_label_weight * CE on the strong view"
    )
    label_weight: ClassVar[float | None] = 0.1
    couples_batch: ClassVar[bool] = True
    reads_labels: ClassVar[bool] = True

    name: Literal["mlld"] = "mlld"
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T, a pure number that divides both networks' logits."""
    other_temperatures: Annotated[tuple[Annotated[float, Field(gt=0, le=100)], ...], AtMost(16)] = (2.0, 3.0, 5.0, 6.0)
    """Further temperatures; the parts are summed over all."""
    weight: float = Field(default=0.9, ge=0, le=1000)
    """Weight of each part at each temperature, a pure number."""
    strong_label_weight: float = Field(default=0.1, ge=0, le=1000)
    """Weight of cross-entropy on the strong view, a pure number."""
    form: Literal["paper", "masked", "published"] = "paper"
    """Variant: the parts that there are and the images that count, as described above."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset(Tap(network, "logits", view) for network in (STUDENT, TEACHER) for view in (CLEAN, STRONG))

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`instance`, a mean over images; `batch`, over images; `class`, over classes; `strong_labels`, over images."""
        clean, strong = (same_classes(batch.student(v).logits, batch.teacher(v).logits) for v in (CLEAN, STRONG))
        parts = self._published(clean, strong) if self.form == "published" else self._aligned(clean, strong)
        return {name: self.weight * part for name, part in parts.items()} | self.label_terms(batch)

    def label_terms(self, batch: Batch) -> dict[str, Tensor]:
        """`strong_labels` alone."""
        from torch.nn import functional as F

        logits_NK = at_least_float32(batch.student(STRONG).logits)
        return {"strong_labels": self.strong_label_weight * F.cross_entropy(logits_NK, batch.targets)}

    @property
    def _temperatures(self) -> tuple[float, ...]:
        return (self.temperature, *self.other_temperatures)

    def _aligned(self, clean: Pair, strong: Pair) -> dict[str, Tensor]:
        import torch

        surest_N = clean[1].softmax(1).amax(1)
        kept_N = at_or_below_median(surest_N) if self.form == "masked" else torch.ones_like(surest_N)
        temperatures, views = self._temperatures, (clean, strong)
        return {
            "instance": total(
                kept_divergence(clean, t, kept_N) + softened_divergence(*strong, t) for t in temperatures
            ),
            "batch": total(batch_distance(pair, t) for pair in views for t in temperatures),
            "class": total(class_distance(pair, t) for pair in views for t in temperatures),
        }

    def _published(self, clean: Pair, strong: Pair) -> dict[str, Tensor]:
        p_NK = clean[1].softmax(1)
        images, classes = (at_or_below_median(sureness).mean() for sureness in (p_NK.amax(1), p_NK.sum(0)))
        temperatures = self._temperatures
        slipped = (strong, *(clean if t in SLIPPED else strong for t in self.other_temperatures))
        return {
            "instance": total(
                images * softened_divergence(*clean, t) + softened_divergence(*pair, t)
                for pair, t in zip(slipped, temperatures, strict=True)
            ),
            "batch": total(images * batch_distance(clean, t) for t in temperatures),
            "class": total(classes * class_distance(clean, t) for t in temperatures),
        }


def kept_divergence(pair: Pair, temperature: float, kept_N: Tensor) -> Tensor:
    """T^2 KL(teacher || student) of the kept images, over the number of all images."""
    log_q_NK, log_p_NK = ((z_NK / temperature).log_softmax(1) for z_NK in pair)
    return (kept_N * divergences(log_q_NK, log_p_NK)).mean() * temperature**2


def batch_distance(pair: Pair, temperature: float) -> Tensor:
    """The squared distance of the two networks' products P P' between images, over N."""
    student_NK, teacher_NK = ((z_NK / temperature).softmax(1) for z_NK in pair)
    return (teacher_NK @ teacher_NK.T - student_NK @ student_NK.T).square().sum() / len(student_NK)


def class_distance(pair: Pair, temperature: float) -> Tensor:
    """The squared distance of the two networks' products P' P between classes, over K."""
    student_NK, teacher_NK = ((z_NK / temperature).softmax(1) for z_NK in pair)
    return (teacher_NK.T @ teacher_NK - student_NK.T @ student_NK).square().sum() / student_NK.shape[1]


def at_or_below_median(values: Tensor) -> Tensor:
    """1 where a value is at most the median of all, else 0."""
    return (values <= values.median()).to(values.dtype)


def total(parts: Iterable[Tensor]) -> Tensor:
    """The sum of scalars."""
    import torch

    return torch.stack([*parts]).sum()
