"""NST: the student's channels select the positions that the teacher's do."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import Batch, Method, Setup, Tap
from retort.methods._maps import BOTH_MAPS, by_stage, check_stages, same_size, stage_maps

if TYPE_CHECKING:
    from torch import Tensor, nn


class NST(Method):
    """Neuron selectivity transfer: squared maximum mean discrepancy between the two networks' channels of each image.

    A channel is a sample: its map, flattened and of length 1. The kernel is the square of the dot product. All stages
    but the first are compared, the last with the last; the larger map is averaged to the smaller one's size. The
    teacher's own term is constant, but part of the value, so that equal channels give 0. Memory is O(N C^2).
    """

    source: ClassVar[str] = (
        "Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, 2017, section 4, "
        "https://arxiv.org/abs/1707.01219"
    )
    formula: ClassVar[str] = (
        "weight * sum_stages mean_n [mean_cd k(t_c, t_d) + mean_cd k(s_c, s_d) - 2 mean_cd k(s_c, t_d)], "
        "k(a, b) = (a . b)^2"
    )
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = "networks of one stage"

    name: Literal["nst"] = "nst"
    weight: float = Field(default=50.0, gt=0, le=1_000_000)
    """Weight of all stages, a pure number."""

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
        return by_stage(self.weight * discrepancy(*same_size(*pair)) for pair in stage_maps(batch))


def discrepancy(student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two sets of channels, a mean over images."""
    from torch.nn.functional import normalize

    # S = H W positions.
    student_NCS, teacher_NCS = normalize(student_NCHW.flatten(2), dim=2), normalize(teacher_NCHW.flatten(2), dim=2)

    def mean_kernel(a_NCS: Tensor, b_NCS: Tensor) -> Tensor:
        return (a_NCS @ b_NCS.mT).square().mean()

    across = mean_kernel(student_NCS, teacher_NCS)
    return mean_kernel(teacher_NCS, teacher_NCS) + mean_kernel(student_NCS, student_NCS) - 2 * across
