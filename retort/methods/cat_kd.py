"""CAT-KD: the student's class activation maps are the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, MethodError, Setup, Tap, at_least_float32
from retort.methods._maps import check_both

if TYPE_CHECKING:
    from torch import Tensor, nn


class CATKD(Method):
    """Class attention transfer: mean squared error between averaged class activation maps.

    M is the classifier at each position of the last map, a map for each class. The authors put a 1x1 convolution in
    the place of both classifiers; as the mean over space and a linear layer commute, a linear classifier at each
    position gives the same maps and the same logits, and neither network is changed. With `classes` only those that
    the teacher scores highest are compared; the published code compares one fewer than its setting. The weight depends
    on the pair, from 0.7 for resnet56 and resnet20 to 600 for ShuffleNets; 15 is that of resnet32x4 and resnet8x4.
    Maps are normalised for networks of different make, and averaged to 4 a side for ShuffleNets.
    """

    source: ClassVar[str] = (
        "Guo, Yan, Li, Lin: Class Attention Transfer Based Knowledge Distillation, CVPR 2023, "
        "https://arxiv.org/abs/2304.12777"
    )
    formula: ClassVar[str] = (
        "weight * mean_{n,k,r} (A(M_s) - A(M_t))^2, A the average over each of the resolution^2 parts of a map"
    )
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = "networks that do not end in the mean of the last map and one linear layer"

    name: Literal["cat_kd"] = "cat_kd"
    weight: float = Field(default=15.0, gt=0, le=1_000_000)
    """Weight of the error, a pure number."""
    resolution: int = Field(default=2, ge=1, le=64)
    """Side of the averaged maps, in positions."""
    normalise: bool = False
    """Whether each averaged map is divided by its length."""
    binarise: bool = False
    """Whether the teacher's maps are first set to 1 where they exceed the mean of their absolute values, else to 0."""
    classes: int | None = Field(default=None, ge=1)
    """Number of classes of each image that are compared, those of the highest teacher logits; null is all of them."""
    counting: Literal["paper", "published"] = "paper"
    """`published` compares one class fewer than `classes` says, as the authors' code does."""

    def check(self, setup: Setup) -> None:
        check_both(
            setup,
            lambda card: card.head == "pool_linear",
            "does not end in the mean of its last map and one linear layer, which class activation maps need",
        )
        if self.classes is not None and self.classes > setup.outputs:
            raise MethodError(f"{self.classes} classes shall be compared; the data set has {setup.outputs}")
        if self._compared == 0:
            raise MethodError("with the published counting, 1 class means none; give 2 or more")

    @property
    def smallest_map(self) -> int:
        """A map that is averaged to `resolution` has no fewer positions."""
        return max(2, self.resolution)

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT, "class_maps"), Tap(TEACHER, "class_maps")})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`class_maps`, a mean over images, classes and positions."""
        from torch.nn.functional import mse_loss

        student_NKHW, teacher_NKHW = batch.student().class_maps, batch.teacher().class_maps
        assert student_NKHW is not None, "it was tapped"
        assert teacher_NKHW is not None, "it was tapped"
        student_NKHW, teacher_NKHW = at_least_float32(student_NKHW), at_least_float32(teacher_NKHW)
        teacher_NK = teacher_NKHW.mean((2, 3))
        if self.binarise:
            threshold_NK11 = teacher_NKHW.abs().mean((2, 3), keepdim=True)
            teacher_NKHW = (teacher_NKHW > threshold_NK11).to(teacher_NKHW.dtype)
        student_NKR, teacher_NKR = self._averaged(student_NKHW), self._averaged(teacher_NKHW)
        if self._compared is not None:
            top_NK1 = teacher_NK.topk(self._compared).indices[:, :, None]
            student_NKR, teacher_NKR = student_NKR.take_along_dim(top_NK1, 1), teacher_NKR.take_along_dim(top_NK1, 1)
        return {"class_maps": self.weight * mse_loss(student_NKR, teacher_NKR)}

    @property
    def _compared(self) -> int | None:
        """Number of classes of each image that are compared."""
        return self.classes if self.classes is None or self.counting == "paper" else self.classes - 1

    def _averaged(self, map_NKHW: Tensor) -> Tensor:
        """(N, K, R), R = resolution^2 parts of the map."""
        from torch.nn.functional import adaptive_avg_pool2d, normalize

        parts_NKR = adaptive_avg_pool2d(map_NKHW, self.resolution).flatten(2)
        return normalize(parts_NKR, dim=2) if self.normalise else parts_NKR
