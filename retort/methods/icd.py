"""ICD: contrast of the two networks' embeddings within the batch, consistent in both directions."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, LiveSetup, Method, Setup, Tap
from retort.methods.rkd import embedding_widths, embeddings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._embeddings import ScaledEmbeddings


class ICD(Method):
    """Invariant consistency distillation: an image's two embeddings find each other in the batch, and the student sees
    the teacher's images as the teacher's see the student's.

    u is a trained linear map of each network's embedding, of unit length; S_ij = scale * u_s,i . u_t,j + b. Later
    versions of the paper call the method DCD. The teacher's map is trained, also through the divergence's target.
    Images of the same class count as negatives. The authors learn b, but a softmax does not see what is added to all
    of its entries: b has no gradient and is not trained here. A fixed scale is multiplied in the authors' code by
    their temperature of 0.07, which flattens the similarities instead of sharpening them; the default here is its
    inverse.
    """

    source: ClassVar[str] = (
        "Giakoumoglou, Stathaki: Discriminative and Consistent Representation Distillation (first versions: Invariant "
        "Consistency Distillation), 2024, https://arxiv.org/abs/2407.11802"
    )
    formula: ClassVar[str] = (
        "weight * [CE(S, diagonal) + consistency_weight * mean_i KL(softmax_j S_ji || softmax_j S_ij)], scale = "
        "min(exp(theta), max_scale)"
    )
    label_weight: ClassVar[float | None] = 1.0
    couples_batch: ClassVar[bool] = True

    name: Literal["icd"] = "icd"
    weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of both terms, a pure number."""
    consistency_weight: float = Field(default=0.5, ge=0, le=1000)
    """Weight of the divergence beside the contrast, a pure number."""
    features: int = Field(default=128, ge=1, le=4096)
    """Width to which both embeddings are mapped, in features."""
    scale: Literal["learned", "fixed"] = "learned"
    """Whether the similarities' scale is learned, from e onwards, or stays at `fixed_scale`."""
    fixed_scale: float = Field(default=1 / 0.07, gt=0, le=1000)
    """Factor of cosines when the scale is fixed, a pure number."""
    max_scale: float = Field(default=10.0, gt=0, le=1000)
    """Upper bound of a learned scale, a pure number; beyond it theta has no gradient."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT, "embedding"), Tap(TEACHER, "embedding")})

    def modules(self, setup: LiveSetup) -> ScaledEmbeddings:
        from retort.methods._embeddings import ScaledEmbeddings

        state = ScaledEmbeddings(*embedding_widths(setup), self.features)
        state.log_scale.requires_grad_(self.scale == "learned")
        return state

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`contrastive`, in nats per image; `consistency`, in nats per image."""
        import torch
        from torch.nn import functional as F

        state = cast("ScaledEmbeddings", modules)
        student_ND, teacher_ND = state(*embeddings(batch))
        similarities_NN = self._scale(state) * student_ND @ teacher_ND.T + state.bias
        log_p_NN, log_q_NN = similarities_NN.log_softmax(1), similarities_NN.T.log_softmax(1)
        own_N = torch.arange(len(similarities_NN), device=similarities_NN.device)
        consistency = F.kl_div(log_p_NN, log_q_NN, reduction="batchmean", log_target=True)
        return {
            "contrastive": self.weight * F.nll_loss(log_p_NN, own_N),
            "consistency": self.weight * self.consistency_weight * consistency,
        }

    def _scale(self, state: ScaledEmbeddings) -> Tensor | float:
        return state.log_scale.exp().clamp(max=self.max_scale) if self.scale == "learned" else self.fixed_scale
