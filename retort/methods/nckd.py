"""NCKD: the student's features collapse onto the teacher's class prototypes. A reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.architecture import Card
from retort.method import (
    STUDENT,
    Batch,
    BuildNetwork,
    LiveSetup,
    Method,
    MethodError,
    Setup,
    Tap,
    Wrapper,
    at_least_float32,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._layers import ClassMeans
    from retort.network import Network


class PrototypeClassifier(Wrapper):
    """The student's classifier replaced by the cosine to the teacher's class prototypes, after a linear map if the
    embeddings' widths differ."""

    student_features: int
    """Width of the student's own embedding."""
    teacher_features: int
    """Width of the teacher's embedding, which is the prototypes'."""
    classes: int
    scale: float
    """Factor from cosines to logits, a pure number."""
    projects: bool
    """True if a linear map stands between the embedding and the prototypes."""

    def build(self, network: Network, build_network: BuildNetwork) -> None:
        from torch import nn

        from retort.methods._layers import Prototypes

        projection = nn.Linear(self.student_features, self.teacher_features) if self.projects else nn.Identity()
        head = nn.Sequential()
        head.add_module("projection", projection)
        head.add_module("prototypes", Prototypes(self.classes, self.teacher_features, self.scale))
        network.replace_classifier(head, reads="prototypes")

    def card(self, card: Card, cards: Mapping[str, Card]) -> Card:
        added = (self.student_features + 1) * self.teacher_features if self.projects else 0
        # Stored besides what a linear classifier on the new embedding would: the origin, less the biases.
        added += self.teacher_features - self.classes
        return card.model_copy(
            update={
                "embedding": self.teacher_features,
                "head": "other",
                "body_parameters": card.body_parameters + added,
                "classifier_bias": True,  # so that the count above holds for a network that had none
            }
        )


class NCKD(Method):
    """Neural Collapse Inspired KD: class prototypes, their geometry, and a classifier made of them.

    A reconstruction: no code was published and the paper's equations could not be read. The three parts follow its
    abstract and summaries of it; every choice is a field. f is the teacher's embedding and h the student's, after a
    trained linear map P where the widths differ. m_c is the mean of f over the training images of class c, m_G the
    mean of the m_c, t_c = (m_c - m_G) / |m_c - m_G|.
    """

    source: ClassVar[str] = (
        "Zhang, Song, He: Neural Collapse Inspired Knowledge Distillation, AAAI 2025, https://arxiv.org/abs/2412.11788"
    )
    formula: ClassVar[str] = (
        "nc1_weight * mean_i -log softmax_c(cos(h_i - m_G, t_c) / tau)[y_i] + nc2_weight * mean_{c != c'} "
        "(<s_c, s_c'> - <t_c, t_c'>)^2, with logits scale * cos(h - m_G, t_c)"
    )
    reconstruction: ClassVar[bool] = True
    couples_batch: ClassVar[bool] = True
    wrapper_type: ClassVar[type[Wrapper] | None] = PrototypeClassifier
    refuses: ClassVar[str] = "networks without a linear classifier on an embedding; fewer training images than classes"
    reads_labels: ClassVar[bool] = True

    name: Literal["nckd"] = "nckd"
    nc1: Literal["contrastive", "pull"] = "contrastive"
    """Form of the term that draws an embedding to its class's prototype: against all others (`contrastive`), or by
    1 - cos alone (`pull`)."""
    nc1_weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the first part, a pure number; 0 leaves it out."""
    nc1_temperature: float = Field(default=0.5, gt=0, le=10)
    """tau, what cosines are divided by in the contrastive form, a pure number."""
    nc2_weight: float = Field(default=10.0, ge=0, le=100_000)
    """Weight of the second part, a pure number; 0 leaves it out."""
    nc2_target: Literal["teacher", "simplex"] = "teacher"
    """The cosines that class means should have: the teacher's own, or -1 / (K - 1)."""
    nc2_momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the running class mean that is kept when the class appears in a batch, a pure number."""
    nc3: bool = True
    """Whether the student's classifier becomes the cosine to the teacher's prototypes, in training and after."""
    nc3_scale: float | None = Field(default=None, gt=0, le=1000)
    """Factor from those cosines to logits, a pure number. Null is (K - 1) / K * ln(9 (K - 1)), with
    which an image right on its prototype has the probability 0.9, were the prototypes a simplex."""
    projection: Literal["auto", "linear"] = "auto"
    """P: `auto` is the identity where both embeddings are equally wide, else linear; `linear` is always linear."""

    def check(self, setup: Setup) -> None:
        for role, card in (("student", setup.student), ("teacher", setup.teacher)):
            if card is not None and card.head == "other":
                raise MethodError(
                    f"the {role} {card.architecture} has no linear classifier on an embedding, "
                    "which class prototypes need"
                )
        if setup.facts.train < setup.outputs:
            raise MethodError(
                f"the training split has {setup.facts.train} images for {setup.outputs} classes; "
                "each class needs one for its prototype"
            )

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT, "embedding")})

    def wrapper(self, setup: Setup) -> Wrapper | None:
        if not self.nc3:
            return None
        student, teacher = setup.student.embedding, _teacher(setup).embedding
        return PrototypeClassifier(
            student_features=student,
            teacher_features=teacher,
            classes=setup.outputs,
            scale=self._scale(setup.outputs),
            projects=self._projects(student, teacher),
        )

    def wrap(self, network: Network, wrapper: Wrapper, setup: LiveSetup) -> None:
        from retort.methods._layers import Prototypes

        wrapper.build(network, setup.build_network)
        prototypes = network.classifier
        assert isinstance(prototypes, Prototypes)
        prototypes.fill(*_directions(setup))

    def modules(self, setup: LiveSetup) -> ClassMeans:
        from torch import nn

        from retort.methods._layers import ClassMeans

        directions_KD, origin_D = _directions(setup)
        student, teacher = setup.student.embedding, len(origin_D)
        # A wrap has projected already: what the student's classifier reads is h.
        projects = not self.nc3 and self._projects(student, teacher)
        projection = nn.Linear(student, teacher) if projects else nn.Identity()
        return ClassMeans(directions_KD, origin_D, self._target(directions_KD), projection)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`nc1`, a mean over images; `nc2`, a mean over pairs of classes that are in the batch."""
        state = cast("ClassMeans", modules)
        h_ND = _embedding(batch, state)
        terms = {}
        if self.nc1_weight:
            terms["nc1"] = self.nc1_weight * self._nc1(h_ND, batch.targets, state)
        if self.nc2_weight:
            terms["nc2"] = self.nc2_weight * self._nc2(h_ND, batch.targets, state)
        return terms

    def update(self, batch: Batch, modules: nn.Module | None) -> None:
        """The running class means take in this batch, as `terms` saw them."""
        import torch

        state = cast("ClassMeans", modules)
        with torch.no_grad():
            means_KD, seen_K, _ = state.with_batch(_embedding(batch, state), batch.targets, self.nc2_momentum)
            state.means_KD.copy_(means_KD)
            state.seen_K.copy_(seen_K)

    def _scale(self, classes: int) -> float:
        return sure_scale(classes) if self.nc3_scale is None else self.nc3_scale

    def _projects(self, student_features: int, teacher_features: int) -> bool:
        return self.projection == "linear" or student_features != teacher_features

    def _target(self, directions_KD: Tensor) -> Tensor:
        if self.nc2_target == "teacher":
            return directions_KD @ directions_KD.T
        classes = directions_KD.shape[0]
        return directions_KD.new_full((classes, classes), -1 / (classes - 1))

    def _nc1(self, h_ND: Tensor, labels_N: Tensor, state: ClassMeans) -> Tensor:
        from torch.nn import functional as F

        from retort.methods._layers import cosines

        cosines_NK = cosines(h_ND, state.directions_KD, state.origin_D)
        if self.nc1 == "contrastive":
            return F.cross_entropy(cosines_NK / self.nc1_temperature, labels_N)
        return (1 - cosines_NK.gather(1, labels_N[:, None])).mean()

    def _nc2(self, h_ND: Tensor, labels_N: Tensor, state: ClassMeans) -> Tensor:
        """Mean over ordered pairs of different classes in the batch; 0 when there is no pair."""
        import torch
        from torch.nn import functional as F

        means_KD, seen_K, present_K = state.with_batch(h_ND, labels_N, self.nc2_momentum)
        centre_D = (seen_K @ means_KD) / seen_K.sum()
        directions_KD = F.normalize(means_KD - centre_D, dim=1)
        pairs_KK = torch.outer(present_K, present_K).fill_diagonal_(0)
        squares_KK = (directions_KD @ directions_KD.T - state.target_KK) ** 2
        return (squares_KK * pairs_KK).sum() / pairs_KK.sum().clamp(min=1)


def _embedding(batch: Batch, state: ClassMeans) -> Tensor:
    """h (N, D): the student's embedding in the teacher's space."""
    embedding = batch.student().embedding
    assert embedding is not None, "it was tapped"
    projected: Tensor = state.projection(at_least_float32(embedding))
    return projected


def sure_scale(classes: int, probability: float = 0.9) -> float:
    """The scale of cosines at which an image right on its prototype has that probability of its class.

    Prototypes form a simplex: the cosine is 1 to the own and -1 / (K - 1) to the others (Wang, Xiang, Cheng, Yuille:
    NormFace, ACM Multimedia 2017, section 3.3, https://arxiv.org/abs/1704.06369).
    """
    others = classes - 1
    return others / classes * log(others * probability / (1 - probability))


def _teacher(setup: Setup) -> Card:
    if setup.teacher is None:
        raise MethodError("a teacher is needed; the recipe has none")
    return setup.teacher


def _directions(setup: LiveSetup) -> tuple[Tensor, Tensor]:
    """The teacher's t_c (K, D) and m_G (D), float32, from one pass over the training images, once a job."""
    return setup.once("teacher's class directions", lambda: _measure_directions(setup))


def _measure_directions(setup: LiveSetup) -> tuple[Tensor, Tensor]:
    import torch
    from torch.nn import functional as F

    classes = setup.outputs
    sums_KD = torch.zeros(classes, _teacher(setup).embedding, dtype=torch.float64)
    counts_K = torch.zeros(classes, dtype=torch.float64)
    for outputs, labels_N, _ in setup.teacher_pass("embedding"):
        assert outputs.embedding is not None
        members_NK = F.one_hot(labels_N.cpu(), classes).double()
        sums_KD += members_NK.T @ outputs.embedding.cpu().double()
        counts_K += members_NK.sum(0)
    empty = [setup.target_names[c] for c in (counts_K == 0).nonzero().flatten().tolist()]
    if empty:
        raise MethodError(
            f"the training split has no image of {', '.join(map(repr, empty[:5]))}; "
            "each class needs one for its prototype"
        )
    means_KD = sums_KD / counts_K[:, None]
    origin_D = means_KD.mean(0)
    return F.normalize(means_KD - origin_D, dim=1).float(), origin_D.float()
