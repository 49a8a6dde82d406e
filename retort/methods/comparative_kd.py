"""Comparative KD: the student imitates how the teacher's few answers compare with each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import STUDENT, Batch, Choice, LiveSetup, Method, MethodError, Setup, Tap
from retort.methods.kd import same_classes, softened_divergence

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._layers import TeacherAnswers


class ComparativeKD(Method):
    """Comparative KD: the student's logits compare between groups of images as the teacher's and as the labels do.

    The teacher runs once on each image of a subset, without augmentation, and never again; the student is trained
    on that subset alone. d combines the means over two groups of images, of logits or of one-hot labels. A comparison
    is made for each image of the batch: the first group begins with it, the second follows, in the batch's cyclic
    order. The authors draw groups from the whole subset instead. Labels enter through d, so cross-entropy beside it
    has a weight of 0. The authors' variant on feature maps is left out.
    """

    source: ClassVar[str] = (
        "Wilf, Xu, Liang, Obolenskiy, Fried, Morency: Comparative Knowledge Distillation, WACV 2025, "
        "https://arxiv.org/abs/2311.02253"
    )
    formula: ClassVar[str] = (
        "class_weight * MSE(d_s, d_y) + relation_weight * MSE(d_s, d_t) + kd_weight * T^2 * KL(softmax(d_t / T) || "
        "softmax(d_s / T)), d = a - b, (a + b) / 2 or lambda a + (1 - lambda) b of the groups' means a and b"
    )
    label_weight: ClassVar[float | None] = 0.0
    couples_batch: ClassVar[bool] = True
    chooses_images: ClassVar[bool] = True
    refuses: ClassVar[str] = "a subset larger than the training split"
    reads_labels: ClassVar[bool] = True

    name: Literal["comparative_kd"] = "comparative_kd"
    subset_size: int | None = Field(default=None, ge=2)
    """Images that the teacher runs and the student is trained on; null is the whole training split."""
    group_size: int = Field(default=3, ge=2, le=64)
    """Images of both groups together, published with 2 and 3; the first group has the odd one."""
    mixing: Literal["difference", "average", "mixup"] = "difference"
    """Combination of the groups' means a and b; lambda of `mixup` is uniform in [0, 1), one a batch."""
    class_weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the distance to the labels' comparison, a pure number."""
    relation_weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the distance to the teacher's comparison, a pure number."""
    kd_weight: float = Field(default=0.0, ge=0, le=1000)
    """Weight of the divergence between both comparisons as logits, a pure number; 0 leaves it out."""
    temperature: float = Field(default=4.0, gt=0, le=100)
    """T of that divergence, a pure number."""

    def check(self, setup: Setup) -> None:
        if self.subset_size is not None and self.subset_size > setup.facts.train:
            raise MethodError(
                f"a subset of {self.subset_size} images is wanted; the training split has {setup.facts.train}"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT)})

    def modules(self, setup: LiveSetup) -> TeacherAnswers:
        import torch

        from retort.methods._layers import TeacherAnswers

        # Torch's generator is seeded by the student here.
        positions_S = torch.randperm(setup.facts.train)[: self.subset_size].sort().values
        answers = [outputs.logits.cpu() for outputs, _, _ in setup.teacher_pass("logits", positions=positions_S)]
        return TeacherAnswers(positions_S, torch.cat(answers))

    def images_in_epoch(self, epoch: int, setup: Setup) -> int:
        return self.subset_size or setup.facts.train

    def choose(self, epoch: int, modules: nn.Module | None) -> Choice | None:
        return None if self.subset_size is None else Choice(cast("TeacherAnswers", modules).positions_S)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`class` and `relation`, means over comparisons and classes; `soft`, in nats per comparison times T^2."""
        from torch.nn.functional import one_hot

        student_NK, teacher_NK = same_classes(batch.student().logits, cast("TeacherAnswers", modules)(batch.indices))
        labels_NK = one_hot(batch.targets, student_NK.shape[1]).to(student_NK.dtype)
        (first_NG, second_NH), share = self._groups(batch), self._share(batch)
        return self.distances(
            *(self.compare(x, first_NG, second_NH, share) for x in (student_NK, teacher_NK, labels_NK))
        )

    def compare(self, x_NK: Tensor, first_CG: Tensor, second_CH: Tensor, share: Tensor | float) -> Tensor:
        """d (C, K) of C comparisons, each between G rows and H rows; `share` is lambda."""
        first_CK, second_CK = x_NK[first_CG].mean(1), x_NK[second_CH].mean(1)
        if self.mixing == "difference":
            return first_CK - second_CK
        share = 0.5 if self.mixing == "average" else share
        return share * first_CK + (1 - share) * second_CK

    def distances(self, student_CK: Tensor, teacher_CK: Tensor, labels_CK: Tensor) -> dict[str, Tensor]:
        """The terms, of what the comparisons gave."""
        from torch.nn.functional import mse_loss

        terms = {
            "class": self.class_weight * mse_loss(student_CK, labels_CK),
            "relation": self.relation_weight * mse_loss(student_CK, teacher_CK),
        }
        if self.kd_weight:
            terms["soft"] = self.kd_weight * softened_divergence(student_CK, teacher_CK, self.temperature)
        return terms

    def _groups(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N, G) and (N, H) rows of the batch, those of one comparison a row."""
        import torch

        second, count = self.group_size // 2, len(batch.indices)
        steps = torch.arange(self.group_size, device=batch.indices.device)
        rows_NG = (torch.arange(count, device=batch.indices.device)[:, None] + steps) % count
        return rows_NG[:, :-second], rows_NG[:, -second:]

    def _share(self, batch: Batch) -> Tensor:
        """0-d float32 in [0, 1), drawn for the batch."""
        import torch

        from retort import draws

        steps = 1 << 24  # as many as float32 distinguishes
        below = torch.full((1,), steps, device=batch.key.device)
        return draws.integers(batch.key, below, 1)[0, 0] / steps
