"""CC: the student's embeddings are correlated within the batch as the teacher's are."""

from __future__ import annotations

from math import exp, factorial
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, LiveSetup, Method, Setup, Tap
from retort.methods.rkd import embedding_widths, embeddings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._embeddings import LinearEmbeddings


class CC(Method):
    """Correlation congruence: what two images' embeddings have in common should be the same for both networks.

    e_s and e_t are trained linear maps to one width. The default is the form that the authors gave to the CRD toolbox.
    It is not the paper's: it multiplies the differences of neighbours in the batch, so that it depends on the batch's
    order. `gaussian` is the paper's: the mean squared difference of Gaussian kernels, as a Taylor series, which holds
    for vectors of unit length, so e_s and e_t are normalised there. Its values are a thousandth of the other's, and
    the published weight does not belong to it. In both forms the teacher's map is trained too.
    """

    source: ClassVar[str] = (
        "Peng, Jin, Liu, Zhou, Wu, Liu, Li, Zhang: Correlation Congruence for Knowledge Distillation, ICCV 2019, "
        "https://arxiv.org/abs/1904.01802"
    )
    formula: ClassVar[str] = (
        "weight * mean_i sum_d delta_i,d delta_(i+1),d, delta = |e_s(f_s) - e_t(f_t)|; or weight * mean_ij (C_s - "
        "C_t)^2, C_ij = exp(-2 gamma) sum_p (2 gamma)^p / p! (e_i . e_j)^p"
    )
    label_weight: ClassVar[float | None] = 1.0
    couples_batch: ClassVar[bool] = True

    name: Literal["cc"] = "cc"
    weight: float = Field(default=0.02, ge=0, le=100_000)
    """Weight of the term, a pure number; the default belongs to `consecutive`."""
    form: Literal["consecutive", "gaussian"] = "consecutive"
    """Pairs that are compared: neighbours in the batch, as in the authors' code, or all pairs by the paper's kernel."""
    features: int = Field(default=128, ge=1, le=4096)
    """Width to which both embeddings are mapped, in features."""
    gamma: float = Field(default=0.4, gt=0, le=100)
    """Falloff of the Gaussian kernel with squared distance, a pure number; `consecutive` does not use it."""
    taylor_order: int = Field(default=2, ge=1, le=20)
    """Highest power kept of the Gaussian kernel's series; `consecutive` does not use it."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT, "embedding"), Tap(TEACHER, "embedding")})

    def modules(self, setup: LiveSetup) -> LinearEmbeddings:
        from retort.methods._embeddings import LinearEmbeddings

        return LinearEmbeddings(*embedding_widths(setup), self.features, unit_length=self.form == "gaussian")

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`correlation`, a mean over neighbours or over all pairs of images."""
        from torch.nn.functional import mse_loss

        student_ND, teacher_ND = cast("LinearEmbeddings", modules)(*embeddings(batch))
        if self.form == "consecutive":
            delta_ND = (student_ND - teacher_ND).abs()
            # A batch of one has no neighbours.
            return {"correlation": self.weight * (delta_ND[:-1] * delta_ND[1:]).sum() / max(len(delta_ND) - 1, 1)}
        return {"correlation": self.weight * mse_loss(self._kernel(student_ND), self._kernel(teacher_ND))}

    def _kernel(self, embedding_ND: Tensor) -> Tensor:
        """(N, N) Gaussian kernel of vectors of unit length, by its Taylor series."""
        import torch

        products_NN, twice = embedding_ND @ embedding_ND.T, 2 * self.gamma
        powers = [twice**p / factorial(p) * products_NN**p for p in range(self.taylor_order + 1)]
        return exp(-twice) * torch.stack(powers).sum(0)
