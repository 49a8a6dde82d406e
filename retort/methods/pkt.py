"""PKT: the student imitates which images the teacher's embeddings make neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, Method, Setup, Tap
from retort.methods.rkd import embeddings

if TYPE_CHECKING:
    from torch import Tensor, nn

EPSILON = 1e-7


class PKT(Method):
    """Probabilistic knowledge transfer: the divergence between two networks' shares of similarity within the batch.

    A row of P gives the shares of an image's similarity, (1 + cosine) / 2, among the batch, itself included. The
    mean runs over all N^2 entries, hence the large weight.
    """

    source: ClassVar[str] = (
        "Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer, ECCV 2018, "
        "https://arxiv.org/abs/1803.10837"
    )
    formula: ClassVar[str] = (
        "weight * mean_ij P_t log[(P_t + e) / (P_s + e)], P_ij = k_ij / sum_j k_ij, k_ij = (1 + cos(f_i, f_j)) / 2"
    )
    label_weight: ClassVar[float | None] = 1.0
    couples_batch: ClassVar[bool] = True

    name: Literal["pkt"] = "pkt"
    weight: float = Field(default=30_000.0, ge=0, le=10_000_000)
    """Weight of the divergence, a pure number."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT, "embedding"), Tap(TEACHER, "embedding")})

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`neighbours`, a mean over pairs of images."""
        q_NN, p_NN = (shares(cosine_kernel(f_ND, EPSILON)) for f_ND in embeddings(batch))
        return {"neighbours": self.weight * (p_NN * ((p_NN + EPSILON) / (q_NN + EPSILON)).log()).mean()}


def cosine_kernel(embedding_ND: Tensor, epsilon: float) -> Tensor:
    """(N, N) similarities in [0, 1], (1 + cosine) / 2; epsilon is added to the norms."""
    from torch.linalg import vector_norm

    lengths_N1: Tensor = vector_norm(embedding_ND, dim=1, keepdim=True)
    directions_ND = embedding_ND / (lengths_N1 + epsilon)
    return (1 + directions_ND @ directions_ND.T) / 2


def shares(kernel_NN: Tensor) -> Tensor:
    """Each row over its sum."""
    return kernel_NN / kernel_NN.sum(1, keepdim=True)
