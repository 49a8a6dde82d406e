"""Shared nn.Modules of the methods that compare embeddings in a common space, in the batch or with a memory.

Shapes: N images, K classes, D features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retort import draws
from retort.methods.rkd import embeddings

if TYPE_CHECKING:
    from retort.method import Batch


class LinearEmbeddings(nn.Module):
    """A linear map of the student's embedding and one of the teacher's, to vectors of one width."""

    def __init__(
        self, student_features: int, teacher_features: int, features: int, *, unit_length: bool = True
    ) -> None:
        super().__init__()
        self.embed_student = nn.Linear(student_features, features)
        self.embed_teacher = nn.Linear(teacher_features, features)
        self.unit_length = unit_length

    def forward(self, student_ND: Tensor, teacher_ND: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings (N, features) in the common space, of length 1 where that is wanted."""
        student_ND, teacher_ND = self.embed_student(student_ND), self.embed_teacher(teacher_ND)
        if not self.unit_length:
            return student_ND, teacher_ND
        return F.normalize(student_ND, dim=1), F.normalize(teacher_ND, dim=1)


class ScaledEmbeddings(LinearEmbeddings):
    """Linear maps of both embeddings to unit vectors, with a scale and a shift for their cosines."""

    def __init__(self, student_features: int, teacher_features: int, features: int) -> None:
        super().__init__(student_features, teacher_features, features)
        self.log_scale = nn.Parameter(torch.tensor(1.0))
        # What is added to all entries changes no softmax: its gradient would be zero.
        self.bias = nn.Parameter(torch.tensor(0.0), requires_grad=False)


class MemoryBanks(LinearEmbeddings):
    """The last embeddings of all training images in both networks, which a batch is contrasted with.

    Shapes: M training images, J candidates of an image: itself and its negatives.
    """

    student_MD: Tensor
    """The student's unit embeddings."""
    teacher_MD: Tensor
    """The teacher's unit embeddings."""
    normalisers_2: Tensor
    """Divisors of the student's and the teacher's scores; -1 until the first batch sets them."""
    order_M: Tensor
    """Positions of the training images, sorted by class."""
    counts_K: Tensor
    """Training images of each class."""
    ends_K: Tensor
    """Ends of the classes in that order."""

    def __init__(
        self,
        student_features: int,
        teacher_features: int,
        features: int,
        labels_M: Tensor,
        classes: int,
        *,
        negatives: int,
        temperature: float,
        momentum: float,
    ) -> None:
        super().__init__(student_features, teacher_features, features)
        self.negatives, self.temperature, self.momentum = negatives, temperature, momentum
        # Uniform, so that the mean square of a row's length is 1.
        bound = (3 / features) ** 0.5
        for name in ("student_MD", "teacher_MD"):
            self.register_buffer(name, torch.empty(len(labels_M), features).uniform_(-bound, bound))
        self.register_buffer("normalisers_2", torch.full((2,), -1.0))
        self.register_buffer("order_M", labels_M.argsort(stable=True), persistent=False)
        self.register_buffer("counts_K", labels_M.bincount(minlength=classes), persistent=False)
        self.register_buffer("ends_K", self.counts_K.cumsum(0), persistent=False)

    def probabilities(self, batch: Batch) -> list[Tensor]:
        """(N, J) exp(cosine / temperature) / Z of each image and its candidates, the image itself first: the student
        with the teacher's bank, and the teacher with the student's.

        Until Z is known it is the batch's own: M times the mean score.
        """
        scores = self._scores(batch, *self(*embeddings(batch)))
        known = zip(scores, self.normalisers_2.unbind(), strict=True)
        return [score_NJ / torch.where(z < 0, self._normaliser(score_NJ), z) for score_NJ, z in known]

    @torch.no_grad()
    def remember(self, batch: Batch) -> None:
        """Take Z over from the first batch, and mix each batch's embeddings into the rows of its images."""
        vectors = self(*embeddings(batch))
        if self.normalisers_2.min() < 0:
            scores = self._scores(batch, *vectors)
            self.normalisers_2.copy_(torch.stack([self._normaliser(score_NJ) for score_NJ in scores]))
        for bank_MD, u_ND in zip((self.student_MD, self.teacher_MD), vectors, strict=True):
            mixed_ND = self.momentum * bank_MD[batch.indices] + (1 - self.momentum) * u_ND
            bank_MD.index_copy_(0, batch.indices, F.normalize(mixed_ND, dim=1))

    def draw_negatives(self, labels_N: Tensor, key: Tensor) -> Tensor:
        """(N, J - 1) positions of images of other classes, all equally likely, with replacement."""
        images = len(self.order_M)
        # From the end of its own class onwards, all others come before the own one comes again.
        steps_NJ = draws.integers(key, images - self.counts_K[labels_N], self.negatives)
        return self.order_M[(self.ends_K[labels_N][:, None] + steps_NJ) % images]

    def _scores(self, batch: Batch, student_ND: Tensor, teacher_ND: Tensor) -> list[Tensor]:
        negatives_NJ = self.draw_negatives(batch.targets, batch.key)
        candidates_NJ = torch.cat([batch.indices[:, None], negatives_NJ], dim=1)
        pairs = (student_ND, self.teacher_MD), (teacher_ND, self.student_MD)
        # Multiplied with all rows first: the rows of all candidates would take D times the memory of their products.
        return [((u_ND @ bank_MD.T).gather(1, candidates_NJ) / self.temperature).exp() for u_ND, bank_MD in pairs]

    def _normaliser(self, score_NJ: Tensor) -> Tensor:
        return len(self.order_M) * score_NJ.detach().mean()


class EmbeddingQueue(LinearEmbeddings):
    """The teacher's last unit embeddings, Q of them, the oldest of which give way to a batch's."""

    queue_QD: Tensor
    """The embeddings, at first random directions."""
    position: Tensor
    """0-d int64, the row that is overwritten next."""

    def __init__(self, student_features: int, teacher_features: int, features: int, size: int) -> None:
        super().__init__(student_features, teacher_features, features)
        self.register_buffer("queue_QD", F.normalize(torch.randn(size, features), dim=1))
        self.register_buffer("position", torch.tensor(0))

    def similarities(self, student_ND: Tensor, teacher_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(N, Q) cosines of both networks' embeddings to a queue that holds this batch already."""
        student_ND, teacher_ND = self(student_ND, teacher_ND)
        queue_QD = self._with(teacher_ND.detach())
        return student_ND @ queue_QD.T, teacher_ND @ queue_QD.T

    @torch.no_grad()
    def push(self, student_ND: Tensor, teacher_ND: Tensor) -> None:
        """Put a batch of the teacher's embeddings in, N of them at most Q."""
        _, teacher_ND = self(student_ND, teacher_ND)
        self.queue_QD.copy_(self._with(teacher_ND))
        self.position.copy_((self.position + len(teacher_ND)) % len(self.queue_QD))

    def _with(self, teacher_ND: Tensor) -> Tensor:
        rows_N = torch.arange(len(teacher_ND), device=teacher_ND.device) + self.position
        return self.queue_QD.index_copy(0, rows_N % len(self.queue_QD), teacher_ND)
