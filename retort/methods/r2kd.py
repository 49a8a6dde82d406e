"""R2KD: correlation distances to a teacher mixed with its pruned copy, on clean and on augmented images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import (
    STUDENT,
    TEACHER,
    Batch,
    LiveSetup,
    Method,
    NetworkSpec,
    Setup,
    Tap,
    at_least_float32,
)
from retort.methods.kd import same_classes
from retort.view import CLEAN, AutoAugment, CutMix, CutMixPick, Cutout, Mixup, View

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.network import Network

NORM_EPSILON = 1e-8

AUGMENTED_VIEWS: dict[str, tuple[View, ...]] = {
    "none": (),
    "mixup": (Mixup(alpha=0.2),),
    "cutmix": (CutMix(alpha=1.0),),
    "cutout": (Cutout(share=0.25),),  # the published square is 8 pixels of 32, and 16 of 64
    "cutmix_pick": (CutMixPick(alpha=1.0, runs=2),),
    "autoaugment": (AutoAugment("cifar10"), AutoAugment("imagenet")),
}
"""Choices of each augmentation: the first for images of up to SMALL_PIXELS a side, the last for larger ones."""

SMALL_PIXELS = 32


@dataclass(frozen=True)
class PrunedTeacher(NetworkSpec):
    """A copy of the teacher whose smallest weights are zero, layer by layer, without fine-tuning."""

    rate: float
    """Share of each convolution's and linear layer's weights that is set to zero."""
    mode: Literal["eval", "train"]
    """True if batch norm uses its running statistics, false if the batch's."""

    @property
    def batch_statistics(self) -> bool:
        return self.mode == "train"

    def build(self, setup: LiveSetup) -> Network:
        network = setup.rebuild_teacher()
        prune_smallest(network, self.rate)
        return network


class R2KD(Method):
    """Robustness-Reinforced KD: value and rank correlation with a teacher that was mixed with its pruned copy.

    z is teacher_share * teacher + (1 - teacher_share) * pruned teacher, on the logits; p = softmax(z / T). The authors'
    code ranks by a double argsort, which has no gradient (`ranking: hard`); the default is a differentiable rank. It
    leaves the pruned teacher in train mode (`pruned_teacher_mode: train`); the default is eval. For `cutmix_pick` it
    ranks by the teacher's entropy on the unmixed images; here the mixed ones are ranked.
    """

    source: ClassVar[str] = (
        "Kim, Ham, Cho, Kim: Robustness-Reinforced Knowledge Distillation with Correlation Distance and Network "
        "Pruning, TKDE 2024, https://arxiv.org/abs/2311.13934"
    )
    formula: ClassVar[str] = (
        "sum over clean and augmented: value_weight * T^2 * [D(p_s, p) over images + D over classes] + rank_weight * "
        "(1 - mean_n Spearman(p_s, p)), D = 1 - mean |a.b| / (|a||b|)"
    )
    label_weight: ClassVar[float | None] = 1.0
    couples_batch: ClassVar[bool] = True
    with_two_classes: ClassVar[str] = (
        "two ranks correlate by 1 or -1 whatever the logits are, so that rank has no gradient"
    )

    name: Literal["r2kd"] = "r2kd"
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T, a pure number that divides all logits."""
    value_weight: float = Field(default=2.0, ge=0, le=1000)
    """Weight of the value correlation, a pure number, before T^2."""
    rank_weight: float = Field(default=2.0, ge=0, le=1000)
    """Weight of the rank correlation, a pure number."""
    ranking: Literal["soft", "hard"] = "soft"
    """`hard` is the published double argsort, which has no gradient; `soft` counts by sigmoids."""
    rank_softness: float = Field(default=0.1, gt=0, le=10)
    """Width of the soft rank's sigmoids, in standard deviations of an image's logits."""
    teacher_share: float = Field(default=0.7, ge=0, le=1)
    """Share of the unpruned teacher in the mixed logits, a pure number."""
    pruning_rate: float = Field(default=0.1, ge=0, lt=1)
    """Share of each layer's weights that the pruned teacher lacks."""
    pruned_teacher_mode: Literal["eval", "train"] = "eval"
    """Whether the pruned teacher's batch norm uses its running statistics or, as published, the batch's."""
    augmentation: Literal["none", "mixup", "cutmix", "cutout", "cutmix_pick", "autoaugment"] = "cutmix"
    """The second view that both losses are taken on, without labels; `none` leaves it out. `autoaugment` has the
    policy learned on CIFAR-10 for images of up to 32 pixels, else that of ImageNet."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        networks: list[NetworkSpec] = [STUDENT, TEACHER]
        if self.teacher_share < 1:
            networks.append(self._pruned)
        candidates = AUGMENTED_VIEWS[self.augmentation]
        augmented = candidates[:1] if setup.image_size <= SMALL_PIXELS else candidates[-1:]
        return frozenset(Tap(network, "logits", view) for network in networks for view in (CLEAN, *augmented))

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`value` and `rank` on the clean images, `augmented_value` and `augmented_rank` on the other view."""
        terms = {}
        tapped = [view for view in (CLEAN, *AUGMENTED_VIEWS[self.augmentation]) if (STUDENT, view) in batch.outputs]
        for view in tapped:
            prefix = "" if view == CLEAN else "augmented_"
            student_NK, teacher_NK = same_classes(batch.student(view).logits, self._mixed_teacher(batch, view))
            t = self.temperature
            if self.value_weight:
                distance = value_distance((student_NK / t).softmax(1), (teacher_NK / t).softmax(1))
                terms[f"{prefix}value"] = self.value_weight * t**2 * distance
            if self.rank_weight:
                distance = rank_distance(student_NK, teacher_NK, self.rank_softness if self.ranking == "soft" else None)
                terms[f"{prefix}rank"] = self.rank_weight * distance
        return terms

    @property
    def _pruned(self) -> PrunedTeacher:
        return PrunedTeacher(rate=self.pruning_rate, mode=self.pruned_teacher_mode)

    def _mixed_teacher(self, batch: Batch, view: View) -> Tensor:
        teacher_NK = at_least_float32(batch.teacher(view).logits)
        if self.teacher_share == 1:
            return teacher_NK
        pruned_NK = at_least_float32(batch.outputs[self._pruned, view].logits)
        return self.teacher_share * teacher_NK + (1 - self.teacher_share) * pruned_NK


def value_distance(a_NK: Tensor, b_NK: Tensor) -> Tensor:
    """One minus the mean |cosine| of the rows, plus the same of the columns; not centred, as in the authors' code."""
    return sum((1 - _cosines(a_NK, b_NK, dim).mean() for dim in (1, 0)), start=a_NK.new_zeros(()))


def _cosines(a_NK: Tensor, b_NK: Tensor, dim: int) -> Tensor:
    from torch.linalg import vector_norm

    products = (a_NK * b_NK).sum(dim).abs()
    norms: Tensor = vector_norm(a_NK, dim=dim) * vector_norm(b_NK, dim=dim)
    return products / (norms + NORM_EPSILON)


def rank_distance(student_NK: Tensor, teacher_NK: Tensor, softness: float | None) -> Tensor:
    """One minus the mean over images of Spearman's correlation of the class ranks.

    With a softness of None the ranks are integers and the distance has no gradient.
    """
    from torch.linalg import vector_norm

    ranks = [hard_ranks(z) if softness is None else soft_ranks(z, softness) for z in (student_NK, teacher_NK)]
    # Scaled as the authors do, so that the epsilon weighs the same.
    classes = student_NK.shape[1]
    a_NK, b_NK = (2 * (r - r.mean(1, keepdim=True)) / (classes * (classes + 1)) for r in ranks)
    norms_N: Tensor = vector_norm(a_NK, dim=1) * vector_norm(b_NK, dim=1)
    correlations_N = (a_NK * b_NK).sum(1) / (norms_N + NORM_EPSILON)
    return 1 - correlations_N.mean()


def hard_ranks(z_NK: Tensor) -> Tensor:
    """The rank of each class in its row, 1 for the smallest; no gradient."""
    return z_NK.argsort(1).argsort(1).to(z_NK.dtype) + 1


def soft_ranks(z_NK: Tensor, softness: float) -> Tensor:
    """1 plus, for each class, the sigmoids of its lead over every other, in units of softness times the row's std.

    Tends to the hard ranks as softness tends to 0. Memory is O(N K^2).
    """
    z_NK = z_NK / (softness * z_NK.std(1, keepdim=True) + NORM_EPSILON)
    # A class leads itself by 0, which counts 1/2.
    return (z_NK[:, :, None] - z_NK[:, None, :]).sigmoid().sum(2) + 0.5


def prune_smallest(network: nn.Module, rate: float) -> None:
    """Set the `round(rate * n)` smallest weights of every convolution and linear layer to zero, in place.

    Each layer by itself; the first convolution and the classifier too; biases and batch norm are left alone.
    """
    from torch import nn
    from torch.nn.utils import prune

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(layer, "weight", amount=rate)  # type: ignore[no-untyped-call]
            prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
