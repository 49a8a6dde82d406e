"""CRD: an image's embedding in one network finds its own in the other among many."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, LiveSetup, Method, MethodError, Setup, Tap
from retort.methods.rkd import embedding_widths

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._embeddings import MemoryBanks

EPSILON = 1e-7


class CRD(Method):
    """Contrastive representation distillation: noise-contrastive estimation between the networks' embeddings, with
    negatives out of a memory of all training images.

    u is a trained linear map of each network's embedding, of unit length, m the memory's row of an image, J the
    negatives and M the training images. The student is scored with the teacher's memory and the teacher with the
    student's. As published, Z comes from the first batch alone and stays. Negatives are images of other classes, drawn
    with replacement; the authors draw without it where there are enough. The memory takes a batch in after the
    optimizer's step, with maps that are one step newer than the authors'; so is the Z that is kept. Memory is
    O(M D + N M + N J).
    """

    source: ClassVar[str] = (
        "Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020, section 3, "
        "https://arxiv.org/abs/1910.10699"
    )
    formula: ClassVar[str] = (
        "-weight * mean_i [log P+ / (P+ + J/M) + sum_neg log (J/M) / (P- + J/M)], P = exp(u . m / temperature) / Z, "
        "student to teacher plus teacher to student"
    )
    label_weight: ClassVar[float | None] = 1.0
    reads_labels: ClassVar[bool] = True

    name: Literal["crd"] = "crd"
    weight: float = Field(default=0.8, ge=0, le=1000)
    """Weight of both directions, a pure number."""
    temperature: float = Field(default=0.07, ge=0.02, le=100)
    """Divisor of cosines, a pure number."""
    negatives: int = Field(default=16_384, ge=1, le=1_000_000)
    """J, images of other classes that each image is contrasted with; no more than there are training images."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Share of an image's row in the memory that is kept when the image comes again, a pure number."""
    features: int = Field(default=128, ge=1, le=4096)
    """Width to which both embeddings are mapped, in features."""

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT, "embedding"), Tap(TEACHER, "embedding")})

    def modules(self, setup: LiveSetup) -> MemoryBanks:
        return memory_banks(setup, self.features, self.negatives, self.temperature, self.momentum)

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`student_anchor` and `teacher_anchor`, in nats per image."""
        state = cast("MemoryBanks", modules)
        noise = state.negatives / len(state.order_M)
        student, teacher = (contrast(p_NJ, noise) for p_NJ in state.probabilities(batch))
        return {"student_anchor": self.weight * student, "teacher_anchor": self.weight * teacher}

    def update(self, batch: Batch, modules: nn.Module | None) -> None:
        """The memory takes the batch in."""
        cast("MemoryBanks", modules).remember(batch)


def contrast(p_NJ: Tensor, noise: float) -> Tensor:
    """Noise-contrastive loss of scores whose first column is the right one, a mean over images, a sum over columns."""
    positive_N = (p_NJ[:, 0] / (p_NJ[:, 0] + noise + EPSILON)).log()
    negative_NJ = (noise / (p_NJ[:, 1:] + noise + EPSILON)).log()
    return -(positive_N + negative_NJ.sum(1)).mean()


def memory_banks(setup: LiveSetup, features: int, negatives: int, temperature: float, momentum: float) -> MemoryBanks:
    """Banks for the training images. Raises MethodError when all are of one class, so that none has a negative."""
    from retort.methods._embeddings import MemoryBanks

    labels_M, classes = setup.targets, setup.outputs
    if (labels_M == labels_M[0]).all():
        raise MethodError("all training images are of one class; negatives are images of other classes")
    return MemoryBanks(
        *embedding_widths(setup),
        features,
        labels_M,
        classes,
        negatives=min(negatives, len(labels_M)),
        temperature=temperature,
        momentum=momentum,
    )
