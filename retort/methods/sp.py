"""SP: images that are alike to the teacher are alike to the student."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import Batch, Method, Setup, Tap
from retort.methods._maps import BOTH_MAPS, last_maps

if TYPE_CHECKING:
    from torch import Tensor, nn


class SP(Method):
    """Similarity-preserving KD: the products of all pairs of images in the batch, as in the teacher's last map.

    A is the last map, flattened to a row an image. Maps may differ in all but N.
    """

    source: ClassVar[str] = (
        "Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019, section 3, "
        "https://arxiv.org/abs/1907.09682"
    )
    formula: ClassVar[str] = "weight / N^2 * |G_t - G_s|_F^2, G = A A^T with each row divided by its length"
    label_weight: ClassVar[float | None] = 1.0
    couples_batch: ClassVar[bool] = True

    name: Literal["sp"] = "sp"
    weight: float = Field(default=3000.0, gt=0, le=1_000_000)
    """Weight of the difference, a pure number."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return BOTH_MAPS

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`similarity`, a mean over pairs of images."""
        from torch.nn.functional import mse_loss

        student_NN, teacher_NN = map(_similarities, last_maps(batch))
        return {"similarity": self.weight * mse_loss(student_NN, teacher_NN)}


def _similarities(map_NCHW: Tensor) -> Tensor:
    """(N, N), rows of length 1."""
    from torch.nn.functional import normalize

    rows = map_NCHW.flatten(1)
    return normalize(rows @ rows.T)
