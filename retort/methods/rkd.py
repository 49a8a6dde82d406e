"""RKD: the student imitates the distances and angles between the teacher's embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap, at_least_float32

if TYPE_CHECKING:
    from torch import Tensor, nn

SMALLEST_DISTANCE = 1e-6


class RKD(Method):
    """Relational KD: Huber's loss between the two networks' pairwise distances, and between their triplets' angles.

    Distances are in units of their own mean over the batch, so the embeddings may differ in width and scale. As
    published, means run over all pairs and all triplets, the degenerate ones included, and two equal embeddings are
    1e-6 apart. Memory is O(N^3 + N^2 D).
    """

    source: ClassVar[str] = (
        "Park, Kim, Lu, Cho: Relational Knowledge Distillation, CVPR 2019, section 3.2, "
        "https://arxiv.org/abs/1904.05068"
    )
    formula: ClassVar[str] = (
        "distance_weight * mean_ij huber(d_s / mean d_s - d_t / mean d_t) + angle_weight * mean_ijk huber(cos_s - "
        "cos_t), d_ij = |f_i - f_j|, cos_ijk of the angle at i between j and k"
    )
    label_weight: ClassVar[float | None] = 1.0
    couples_batch: ClassVar[bool] = True

    name: Literal["rkd"] = "rkd"
    distance_weight: float = Field(default=25.0, ge=0, le=100_000)
    """Weight of the distances, a pure number."""
    angle_weight: float = Field(default=50.0, ge=0, le=100_000)
    """Weight of the angles, a pure number."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT, "embedding"), Tap(TEACHER, "embedding")})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`distance`, a mean over pairs; `angle`, a mean over triplets."""
        from torch.nn.functional import smooth_l1_loss

        (student_NN, student_NNN), (teacher_NN, teacher_NNN) = map(relations, embeddings(batch))
        return {
            "distance": self.distance_weight * smooth_l1_loss(student_NN, teacher_NN),
            "angle": self.angle_weight * smooth_l1_loss(student_NNN, teacher_NNN),
        }


def embeddings(batch: Batch) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's embedding of the clean images, in float32 at least."""
    student_ND, teacher_ND = batch.student().embedding, batch.teacher().embedding
    assert student_ND is not None, "it was tapped"
    assert teacher_ND is not None, "it was tapped"
    return at_least_float32(student_ND), at_least_float32(teacher_ND)


def embedding_widths(setup: Setup) -> tuple[int, int]:
    """Features of the student's embedding and of the teacher's."""
    assert setup.teacher is not None, "the method needs a teacher"
    return setup.student.embedding, setup.teacher.embedding


def relations(embedding_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(N, N) distances over their mean, and (N, N, N) cosines of the angle at the first image between the others."""
    import torch

    differences_NND = embedding_ND - embedding_ND[:, None]
    lengths_NN = differences_NND.square().sum(2).clamp(min=SMALLEST_DISTANCE**2).sqrt()
    others_NN = 1 - torch.eye(len(embedding_ND), dtype=embedding_ND.dtype, device=embedding_ND.device)
    distances_NN = lengths_NN * others_NN
    # A batch of one has no pair.
    mean = distances_NN.sum() / others_NN.sum().clamp(min=1)
    directions_NND = differences_NND / lengths_NN[:, :, None]
    return distances_NN / mean.clamp(min=SMALLEST_DISTANCE), directions_NND @ directions_NND.mT
