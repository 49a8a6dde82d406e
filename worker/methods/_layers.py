"""Shared nn.Modules of the methods.

Shapes: N images, K classes, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Prototypes(nn.Module):
    """A classifier by the cosine between an embedding and frozen class prototypes.

    Its numbers are parameters that are never trained, so that they are counted and stored with the network.
    """

    def __init__(self, classes: int, features: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.directions_KD = nn.Parameter(torch.zeros(classes, features), requires_grad=False)
        self.origin_D = nn.Parameter(torch.zeros(features), requires_grad=False)

    def fill(self, directions_KD: Tensor, origin_D: Tensor) -> None:
        """Take over unit directions and the point from which they are seen."""
        self.directions_KD.data.copy_(directions_KD)
        self.origin_D.data.copy_(origin_D)

    def forward(self, embedding_ND: Tensor) -> Tensor:
        """(N, K) logits: scale times the cosine to each class's direction."""
        return self.scale * cosines(embedding_ND, self.directions_KD, self.origin_D)


def cosines(embedding_ND: Tensor, directions_KD: Tensor, origin_D: Tensor) -> Tensor:
    """(N, K) cosines between embeddings, seen from an origin, and unit directions."""
    return F.normalize(embedding_ND - origin_D, dim=1) @ directions_KD.T


class ClassMeans(nn.Module):
    """Running means of the student's embeddings, class by class, and the teacher's class directions beside them."""

    directions_KD: Tensor
    """The teacher's unit class directions."""
    origin_D: Tensor
    """The mean of the teacher's class means, from which directions are seen."""
    target_KK: Tensor
    """The cosines that the student's class directions should have."""
    means_KD: Tensor
    """Running means of the student's embeddings; zero for a class that was never seen."""
    seen_K: Tensor
    """1 for classes that were seen so far, else 0."""

    def __init__(self, directions_KD: Tensor, origin_D: Tensor, target_KK: Tensor, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection
        self.register_buffer("directions_KD", directions_KD)
        self.register_buffer("origin_D", origin_D)
        self.register_buffer("target_KK", target_KK)
        self.register_buffer("means_KD", torch.zeros_like(directions_KD))
        self.register_buffer("seen_K", directions_KD.new_zeros(len(directions_KD)))

    def with_batch(self, h_ND: Tensor, labels_N: Tensor, momentum: float) -> tuple[Tensor, Tensor, Tensor]:
        """Class means with a batch taken in (K, D), which classes were ever seen (K), which are in the batch (K).

        At batch 64 and 100 classes a class's batch mean is nearly one image: hence the running mean. The gradient
        goes through this batch's share; without it a term of the means would have none.
        """
        members_NK = F.one_hot(labels_N, len(self.means_KD)).to(h_ND.dtype)
        counts_K = members_NK.sum(0)
        present_K = (counts_K > 0).to(h_ND.dtype)
        batch_means_KD = (members_NK.T @ h_ND) / counts_K.clamp(min=1)[:, None]
        kept_K1 = (1 - present_K * (1 - momentum * self.seen_K))[:, None]
        means_KD = kept_K1 * self.means_KD + (1 - kept_K1) * batch_means_KD
        return means_KD, (self.seen_K + present_K).clamp(max=1), present_K


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


class SideBySide(nn.Module):
    """Two bodies on the same images, their outputs one beside the other into a classifier."""

    def __init__(self, student: nn.Module, assistant: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.assistant = assistant
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) logits."""
        logits: Tensor = self.classifier(torch.cat([self.student(images), self.assistant(images)], dim=1))
        return logits


class SumClassifier(nn.Module):
    """A linear classifier on the sum of the two halves of what it reads."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes)

    def forward(self, both_ND: Tensor) -> Tensor:
        """(N, 2 D) to (N, K)."""
        first_ND, second_ND = both_ND.chunk(2, dim=1)
        logits: Tensor = self.linear(first_ND + second_ND)
        return logits
