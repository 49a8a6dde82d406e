"""AT: the student looks where the teacher looks."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import Batch, Method, Setup, Tap
from retort.methods._maps import BOTH_MAPS, by_stage, check_stages, same_size, stage_maps

if TYPE_CHECKING:
    from torch import Tensor, nn


class AT(Method):
    """Attention transfer: how much activity each position of the student's maps has, as in the teacher's.

    q is the mean over channels of F^p, flattened and of length 1. All stages but the first are compared, the last with
    the last; the larger map is averaged to the smaller one's size before the power. As in the code F^p keeps its sign:
    with an odd p, maps should not be negative. The weight 1000 belongs to `mean_square`; that of the paper's `norm`
    is another.
    """

    source: ClassVar[str] = (
        "Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017, section 3.1, "
        "https://arxiv.org/abs/1612.03928"
    )
    formula: ClassVar[str] = (
        "weight * sum_stages mean_{n,hw} (q_s - q_t)^2, or mean_n |q_s - q_t|, q = vec(mean_c F^p) / |vec(mean_c F^p)|"
    )
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = "networks of one stage"

    name: Literal["at"] = "at"
    weight: float = Field(default=1000.0, gt=0, le=1_000_000)
    """Weight of all stages, a pure number."""
    power: int = Field(default=2, ge=1, le=8)
    """p, the power of the activations before the mean over channels, a pure number."""
    distance: Literal["mean_square", "norm"] = "mean_square"
    """`mean_square` is the authors' code, a mean over images and positions; `norm` is the paper's length of the
    difference, a mean over images."""

    def check(self, setup: Setup) -> None:
        check_stages(setup)

    @property
    def smallest_map(self) -> int:
        """Of four positions, normalised over all of them, little is left to compare."""
        return 3

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return BOTH_MAPS

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """A term for each pair of stages, a mean over images."""
        return by_stage(self.weight * self._distance(*same_size(*pair)) for pair in stage_maps(batch))

    def _distance(self, student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
        from torch.linalg import vector_norm

        differences_NS = self._attention(student_NCHW) - self._attention(teacher_NCHW)
        if self.distance == "mean_square":
            return differences_NS.square().mean()
        lengths_N: Tensor = vector_norm(differences_NS, dim=1)
        return lengths_N.mean()

    def _attention(self, map_NCHW: Tensor) -> Tensor:
        """(N, S) of length 1, S = H W positions."""
        from torch.nn.functional import normalize

        return normalize(map_NCHW.pow(self.power).mean(1).flatten(1))
