"""ITRD: information-theoretic losses that correlate features and transfer pairwise similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, LiveSetup, Method, MethodError, Setup, Tap, at_least_float32
from retort.methods.rkd import embedding_widths, embeddings
from retort.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor, nn


class ITRD(Method):
    """Information-theoretic representation distillation: each feature correlates with the teacher's, and pairwise
    similarities of images share information with the teacher's.

    E is a trained linear map to the teacher's width. The second term reads E(f_s) only where the widths differ, else
    f_s itself, as published. So is the correlation of a perfect match, (N - 1) / N: features are standardised with the
    unbiased deviation but averaged over N, which also keeps the logarithm finite. The first term is negative when
    features correlate. A feature that is constant over the batch correlates with nothing; the authors' code divides
    by zero there.
    """

    source: ClassVar[str] = (
        "Miles, Lopez Rodriguez, Mikolajczyk: Information Theoretic Representation Distillation, BMVC 2022, "
        "https://arxiv.org/abs/2112.00459"
    )
    formula: ClassVar[str] = (
        "correlation_weight * log2 sum_d |c_d - 1|^(2 alpha) + mutual_weight * sum_ij (A_ij^2 - M_ij^2), c_d the "
        "correlation of feature d over the batch, A = G_s / tr G_s, M = G_s * G_t / tr(G_s * G_t), G of unit rows"
    )
    label_weight: ClassVar[float | None] = 1.0
    couples_batch: ClassVar[bool] = True
    refuses: ClassVar[str] = (
        "networks that cannot be read before their last activation, unless before_activation is false"
    )

    name: Literal["itrd"] = "itrd"
    correlation_weight: float = Field(default=2.0, ge=0, le=1000)
    """Weight of the correlation, a pure number."""
    mutual_weight: float = Field(default=0.05, ge=0, le=1000)
    """Weight of the mutual information, a pure number; the authors also publish 1."""
    alpha: float = Field(default=1.5, ge=0.5, le=10)
    """Order of the entropy, a pure number: 1 - c is taken to twice that power."""
    before_activation: bool = True
    """Whether the features are the mean over space of the last map before its activation, as published, instead of
    the embedding."""

    def check(self, setup: Setup) -> None:
        for role, card in (("student", setup.student), ("teacher", setup.teacher)):
            if self.before_activation and card is not None and not card.preactivations:
                raise MethodError(
                    f"the {role} {card.architecture} cannot be read before its last activation; "
                    "set before_activation to false to read its embedding"
                )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        reads: Literal["preactivations", "embedding"] = "preactivations" if self.before_activation else "embedding"
        return frozenset({Tap(STUDENT, reads), Tap(TEACHER, reads)})

    def modules(self, setup: LiveSetup) -> nn.Linear:
        from torch import nn

        if not self.before_activation:
            return nn.Linear(*embedding_widths(setup))
        assert setup.teacher is not None, "the method needs a teacher"
        return nn.Linear(setup.student.stages[-1].channels, setup.teacher.stages[-1].channels)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`correlation`, a logarithm to base 2; `mutual`, a difference of sums over pairs of images."""
        embed = cast("nn.Linear", modules)
        if self.before_activation:
            student_ND, teacher_ND = _pooled(batch.student()), _pooled(batch.teacher())
        else:
            student_ND, teacher_ND = embeddings(batch)
        embedded_ND = embed(student_ND)
        compared_ND = student_ND if student_ND.shape == teacher_ND.shape else embedded_ND
        return {
            "correlation": self.correlation_weight * decorrelation(embedded_ND, teacher_ND, self.alpha),
            "mutual": self.mutual_weight * missing_information(compared_ND, teacher_ND),
        }


def _pooled(outputs: Outputs) -> Tensor:
    """(N, C) mean over space of the last map before its activation, in float32 at least."""
    return at_least_float32(outputs.preactivations[-1]).mean((2, 3))


def decorrelation(student_ND: Tensor, teacher_ND: Tensor, alpha: float) -> Tensor:
    """log2 of the sum over features of |c - 1|^(2 alpha), c being (N - 1) / N times Pearson's correlation."""
    from torch.nn.functional import cosine_similarity

    pearson_D = cosine_similarity(student_ND - student_ND.mean(0), teacher_ND - teacher_ND.mean(0), dim=0)
    return (1 - (1 - 1 / len(student_ND)) * pearson_D).pow(2 * alpha).sum().log2()


def missing_information(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Of the student's pairwise similarities, as Renyi's entropy of order 2 without logarithm: own less joint."""
    from torch.nn.functional import normalize

    student_NN, teacher_NN = (x @ x.T for x in (normalize(student_ND, dim=1), normalize(teacher_ND, dim=1)))
    joint_NN = student_NN * teacher_NN
    own_NN, joint_NN = student_NN / student_NN.trace(), joint_NN / joint_NN.trace()
    return (own_NN.square() - joint_NN.square()).sum()
