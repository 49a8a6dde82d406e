"""ReviewKD: the student's deeper stages, fused into its shallower ones, follow all the teacher's stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, LiveSetup, Method, MethodError, Setup, Tap, at_least_float32
from retort.methods._maps import averaged, cards, check_stages, paired
from retort.methods.rkd import embeddings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._layers import FusionBlock

WIDEST_MIDDLE = 512
"""Channels at most in which the student's stages are fused."""


class ReviewKD(Method):
    """Knowledge review: each of the student's stages, fused with all deeper ones by attention, gives the teacher's map
    at several resolutions.

    Levels are all stages but the first, the last with the last, and the embedding as a map of one position. Going from
    the embedding to the shallowest stage, each block mixes a stage's map with what the block before it passed on; the
    result is brought to the teacher's channels and size. The teacher's maps are taken before their activation, the
    student's after it. The distance averages both maps to 4, 2 and 1 positions a side, as far as that makes them
    smaller, and each of these weighs half as much as the one before it. In the warm-up epochs are counted from one, as
    in mdistiller: the first has 1/20 of the weight, where the authors have none. The weight depends on the pair: 5 for
    most, 1 for resnet110 and resnet32, 0.6 for resnet56 and resnet20, 8 for ShuffleNet V2.
    """

    source: ClassVar[str] = (
        "Chen, Liu, Zhao, Jia: Distilling Knowledge via Knowledge Review, CVPR 2021, section 3, "
        "https://arxiv.org/abs/2104.09044"
    )
    formula: ClassVar[str] = (
        "weight * min((epoch + 1) / warmup_epochs, 1) * sum_levels hcl(fused_s, F_t), hcl = sum_j 2^-j mean (pool_j(a) "
        "- pool_j(b))^2 / sum_j 2^-j"
    )
    label_weight: ClassVar[float | None] = 1.0
    refuses: ClassVar[str] = (
        "a teacher whose maps cannot be read before their activation, unless they are taken after it, and networks of "
        "one stage"
    )

    name: Literal["reviewkd"] = "reviewkd"
    weight: float = Field(default=5.0, gt=0, le=1_000_000)
    """Weight of all levels after the warm-up, a pure number."""
    warmup_epochs: int = Field(default=20, ge=1, le=10_000)
    """Epochs over which the weight grows; 1 has it whole from the start."""
    before_activation: bool = True
    """Whether the teacher's maps are taken before their activation."""

    def check(self, setup: Setup) -> None:
        check_stages(setup)
        _, teacher = cards(setup)
        if self.before_activation and not teacher.preactivations:
            raise MethodError(
                f"the teacher {teacher.architecture} has no maps that can be read before their activation; "
                "before_activation: false serves"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        teacher = Tap(TEACHER, "preactivations" if self.before_activation else "maps")
        return frozenset({Tap(STUDENT, "maps"), Tap(STUDENT, "embedding"), teacher, Tap(TEACHER, "embedding")})

    def modules(self, setup: LiveSetup) -> nn.ModuleList:
        student, teacher = cards(setup)
        stages = paired(student.stages, teacher.stages)
        return fusion_blocks([(s.channels, t.channels) for s, t in stages], (student.embedding, teacher.embedding))

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`review`, a sum over levels, a mean over images and elements."""
        import torch

        student, teacher = self._levels(batch)
        fused = fuse(modules, student, teacher)
        distance = torch.stack([hierarchical_distance(*pair) for pair in zip(fused, teacher, strict=True)]).sum()
        grown = ((batch.epoch.to(distance.dtype) + 1) / self.warmup_epochs).clamp(max=1)
        return {"review": self.weight * grown * distance}

    def _levels(self, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """The student's and the teacher's levels, (N, C, H, W) each, shallow to deep."""
        teacher_maps = batch.teacher().preactivations if self.before_activation else batch.teacher().maps
        student_ND, teacher_ND = embeddings(batch)
        pairs = (
            *paired(batch.student().maps, teacher_maps),
            (student_ND[:, :, None, None], teacher_ND[:, :, None, None]),
        )
        student, teacher = zip(*pairs, strict=True)
        return [at_least_float32(level) for level in student], [at_least_float32(level) for level in teacher]


def fusion_blocks(stages: list[tuple[int, int]], embeddings: tuple[int, int]) -> nn.ModuleList:
    """A block for each level, of the student's and the teacher's channels; that of the embedding has none to fuse."""
    from torch import nn

    from retort.methods._layers import FusionBlock

    middle = min(WIDEST_MIDDLE, embeddings[0])
    blocks = [FusionBlock(student, middle, teacher, fuses=True) for student, teacher in stages]
    return nn.ModuleList([*blocks, FusionBlock(embeddings[0], middle, embeddings[1], fuses=False)])


def fuse(blocks: nn.Module | None, student: list[Tensor], teacher: list[Tensor]) -> list[Tensor]:
    """The student's levels in the teacher's channels and sizes, shallow to deep; made from deep to shallow."""
    fused: list[Tensor] = []
    deeper: Tensor | None = None
    levels = zip(cast("Iterable[FusionBlock]", blocks), student, teacher, strict=True)
    for block, student_NCHW, teacher_NCHW in reversed(list(levels)):
        out, deeper = block(student_NCHW, deeper, teacher_NCHW.shape[2:])
        fused.append(out)
    return fused[::-1]


def hierarchical_distance(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """The mean square of the difference, weighed with that at coarser resolutions; weights add up to 1."""
    from torch.nn.functional import mse_loss

    sides = [side for side in (4, 2, 1) if side < a_NCHW.shape[2]]
    total, weights = mse_loss(a_NCHW, b_NCHW), 1.0
    for i, side in enumerate(sides, 1):
        total = total + mse_loss(averaged(a_NCHW, (side, side)), averaged(b_NCHW, (side, side))) / 2**i
        weights += 1 / 2**i
    return total / weights
