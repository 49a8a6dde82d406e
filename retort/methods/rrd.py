"""RRD: the student sees a memory of images as similar to its own as the teacher does."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, cast

from pydantic import Field

from retort.method import STUDENT, TEACHER, Batch, LiveSetup, Method, MethodError, Setup, Tap
from retort.methods.crd import memory_banks
from retort.methods.rkd import embedding_widths, embeddings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from retort.methods._embeddings import EmbeddingQueue, MemoryBanks


class RRD(Method):
    """Relational representation distillation: cross-entropy between two networks' similarities to a memory of the
    teacher's embeddings.

    u is a linear map of each network's embedding, of unit length; Q is a queue of the last u_t, this batch's among
    them. Nothing trains the teacher's map, as published: it is frozen here and stays a random projection. The queue
    takes any batch size, and its first rows are random directions of length 1; the authors' are shorter, as they
    normalise columns. `momentum` is the authors' other form, kept as published: the similarities are CRD's scores,
    which are exponentials already, and the teacher's are to the student's memory. At CRD's temperature, its default
    here, such scores are near 1 / M: their softmax is nearly flat, and the term trains next to nothing.
    """

    source: ClassVar[str] = (
        "Giakoumoglou, Stathaki: Relational Representation Distillation, 2024, https://arxiv.org/abs/2407.12073"
    )
    formula: ClassVar[str] = (
        "-weight * mean_i sum_j softmax(u_t Q^T / teacher_temperature)_j log softmax(u_s Q^T / student_temperature)_j"
    )
    label_weight: ClassVar[float | None] = 1.0
    couples_batch: ClassVar[bool] = True
    refuses: ClassVar[str] = "a queue shorter than a batch"

    name: Literal["rrd"] = "rrd"
    weight: float = Field(default=1.0, ge=0, le=1000)
    """Weight of the cross-entropy, a pure number."""
    student_temperature: float = Field(default=0.1, gt=0, le=100)
    """Divisor of the student's similarities, a pure number."""
    teacher_temperature: float = Field(default=0.02, gt=0, le=100)
    """Divisor of the teacher's similarities, a pure number."""
    features: int = Field(default=128, ge=1, le=4096)
    """Width to which both embeddings are mapped, in features."""
    memory: Literal["fifo", "momentum"] = "fifo"
    """A queue of the teacher's last embeddings, or CRD's memory of all training images in both networks."""
    queue_size: int = Field(default=16_384, ge=1, le=1_000_000)
    """Embeddings in the queue; `momentum` does not use it."""
    negatives: int = Field(default=16_384, ge=1, le=1_000_000)
    """Images of other classes that each image is compared with, no more than there are training images; `fifo` does
    not use it."""
    score_temperature: float = Field(default=0.07, ge=0.02, le=100)
    """Divisor of cosines before they are exponentiated, a pure number; `fifo` does not use it."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Share of an image's row in the memory that is kept when the image comes again; `fifo` does not use it."""

    def check(self, setup: Setup) -> None:
        if self.memory == "fifo" and self.queue_size < setup.batch_size:
            raise MethodError(f"the queue holds {self.queue_size} embeddings, less than a batch of {setup.batch_size}")

    def taps(self, setup: Setup) -> frozenset[Tap]:
        return frozenset({Tap(STUDENT, "embedding"), Tap(TEACHER, "embedding")})

    def modules(self, setup: LiveSetup) -> nn.Module:
        from retort.methods._embeddings import EmbeddingQueue

        state: EmbeddingQueue | MemoryBanks
        if self.memory == "fifo":
            state = EmbeddingQueue(*embedding_widths(setup), self.features, self.queue_size)
        else:
            state = memory_banks(setup, self.features, self.negatives, self.score_temperature, self.momentum)
        state.embed_teacher.requires_grad_(False)
        return state

    def terms(self, batch: Batch, modules: nn.Module | None) -> dict[str, Tensor]:
        """`relation`, in nats per image."""
        from torch.nn.functional import cross_entropy

        if self.memory == "fifo":
            student_NJ, teacher_NJ = cast("EmbeddingQueue", modules).similarities(*embeddings(batch))
        else:
            student_NJ, teacher_NJ = cast("MemoryBanks", modules).probabilities(batch)
        target_NJ = (teacher_NJ.detach() / self.teacher_temperature).softmax(1)
        return {"relation": self.weight * cross_entropy(student_NJ / self.student_temperature, target_NJ)}

    def update(self, batch: Batch, modules: nn.Module | None) -> None:
        """The memory takes the batch in."""
        if self.memory == "fifo":
            cast("EmbeddingQueue", modules).push(*embeddings(batch))
        else:
            cast("MemoryBanks", modules).remember(batch)
