"""Shared nn.Modules of the methods.

Shapes: N images, K classes, D features.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from retort.method import NetworkSpec
    from retort.methods._maps import Shape


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


class FurtherNetwork(nn.Module):
    """The further network that a student's terms read; it holds nothing that is trained."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec


class EntropyHistory(nn.Module):
    """The student's mean uncertainty about each of M training images so far, and the images in its order."""

    sums_M: Tensor
    """Entropies of the predictions for an image, in nats, summed up."""
    counts_M: Tensor
    """int64, their number; those of 0 do not count."""
    order_M: Tensor
    """int64, positions of the images, the most uncertain first; at first in the data set's order."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.register_buffer("sums_M", torch.zeros(images))
        self.register_buffer("counts_M", torch.zeros(images, dtype=torch.int64))
        self.register_buffer("order_M", torch.arange(images))

    def record(self, indices_N: Tensor, entropies_N: Tensor) -> None:
        """Add a batch's entropies."""
        self.sums_M.index_add_(0, indices_N, entropies_N)
        self.counts_M.index_add_(0, indices_N, (entropies_N > 0).long())

    def rank(self, count_norm: float, count_power: float) -> None:
        """Order the images by (count / count_norm)^count_power times their mean entropy; unseen ones come last."""
        scores_M = (self.counts_M / count_norm) ** count_power * self.sums_M / self.counts_M.clamp(min=1)
        self.order_M.copy_(scores_M.argsort(descending=True, stable=True))


class TeacherAnswers(nn.Module):
    """The teacher's logits of S training images, taken once."""

    positions_S: Tensor
    """Positions of the images in the training split, ascending."""
    logits_SK: Tensor

    def __init__(self, positions_S: Tensor, logits_SK: Tensor) -> None:
        super().__init__()
        self.register_buffer("positions_S", positions_S)
        self.register_buffer("logits_SK", logits_SK)

    def forward(self, indices_N: Tensor) -> Tensor:
        """(N, K) the logits of images at these positions, all of which are among the S."""
        return self.logits_SK[torch.searchsorted(self.positions_S, indices_N)]


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


class MapRegressor(nn.Module):
    """A convolution that brings the student's map to the channels and the size of the teacher's, and batch norm.

    A map twice as large takes a stride of 2, one half as large a transposed convolution; any larger one, or an equal
    one, a kernel so wide that the rest remains. Any smaller one keeps its size.
    """

    def __init__(self, student: Shape, teacher: Shape) -> None:
        super().__init__()
        channels = student.channels, teacher.channels
        self.conv: nn.Module
        if student.side == 2 * teacher.side:
            self.conv = nn.Conv2d(*channels, 3, stride=2, padding=1)
        elif 2 * student.side == teacher.side:
            self.conv = nn.ConvTranspose2d(*channels, 4, stride=2, padding=1)
        elif student.side >= teacher.side:
            self.conv = nn.Conv2d(*channels, 1 + student.side - teacher.side)
        else:
            self.conv = nn.Conv2d(*channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(teacher.channels)

    def forward(self, map_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) with the teacher's channels."""
        out: Tensor = self.bn(self.conv(map_NCHW))
        return out


class GaussianRegressor(nn.Module):
    """A normal distribution of the teacher's map given the student's: three 1x1 convolutions make the mean, and each
    channel has a variance of its own."""

    def __init__(self, student_channels: int, teacher_channels: int, *, smallest_variance: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
        self.conv2 = nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False)
        self.conv3 = nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False)
        self.smallest_variance = smallest_variance
        # The variance starts at 5.
        self.scale = nn.Parameter(torch.full((teacher_channels,), 5 - smallest_variance).expm1().log())

    def forward(self, student_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The mean (N, C, H, W) and the variance (C, 1, 1)."""
        mean_NCHW = self.conv3(self.conv2(self.conv1(student_NCHW).relu()).relu())
        return mean_NCHW, (F.softplus(self.scale) + self.smallest_variance)[:, None, None]


def pointwise(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """A 1x1 convolution to the teacher's channels and batch norm, initialised as He et al. 2015, by fan-out."""
    conv = nn.Conv2d(student_channels, teacher_channels, 1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(teacher_channels)))


class MarginConnector(nn.Module):
    """Convolution from the student's map to the teacher's channels, and the margin of each of these."""

    margin_C11: Tensor
    """A number below zero for each of the teacher's channels."""

    def __init__(self, connector: nn.Module, margin_C: Tensor) -> None:
        super().__init__()
        self.connector = connector
        self.register_buffer("margin_C11", margin_C[:, None, None])

    def forward(self, student_NCHW: Tensor) -> Tensor:
        """(N, C, H, W) with the teacher's channels."""
        out: Tensor = self.connector(student_NCHW)
        return out


class FusionBlock(nn.Module):
    """Attention-based fusion: a student's map mixed with what comes from the deeper stages, position by position, and
    brought to the teacher's channels."""

    def __init__(self, student_channels: int, middle_channels: int, teacher_channels: int, *, fuses: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(student_channels, middle_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle_channels)
        self.attention = nn.Conv2d(2 * middle_channels, 2, 1) if fuses else None
        self.conv2 = nn.Conv2d(middle_channels, teacher_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(teacher_channels)
        for conv in (self.conv1, self.conv2):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, student_NCHW: Tensor, deeper_NCHW: Tensor | None, size: torch.Size) -> tuple[Tensor, Tensor]:
        """A map with the teacher's channels, and the mixture that the next shallower stage takes; both of a size."""
        mixed_NCHW = self.bn1(self.conv1(student_NCHW))
        if self.attention is not None and deeper_NCHW is not None:
            # A 1x1 convolution of both side by side, without putting them there; the deeper map's part before it is
            # enlarged, since nearest neighbours do not mind.
            weight_2C11, sides = self.attention.weight, mixed_NCHW.shape[2:]
            own_N2HW = F.conv2d(mixed_NCHW, weight_2C11[:, : mixed_NCHW.shape[1]], self.attention.bias)
            deeper_N2HW = F.conv2d(deeper_NCHW, weight_2C11[:, mixed_NCHW.shape[1] :])
            own_N1HW, other_N1HW = (own_N2HW + resized(deeper_N2HW, sides)).sigmoid().chunk(2, dim=1)
            mixed_NCHW = own_N1HW * mixed_NCHW + other_N1HW * resized(deeper_NCHW, sides)
        mixed_NCHW = resized(mixed_NCHW, size)
        return self.bn2(self.conv2(mixed_NCHW)), mixed_NCHW


def resized(map_NCHW: Tensor, size: torch.Size) -> Tensor:
    """A map at another size by nearest neighbours; the map itself where it has that size."""
    return map_NCHW if map_NCHW.shape[2:] == size else F.interpolate(map_NCHW, size)


class TeacherClassifier(nn.Module):
    """A trained connector from the student's features to the teacher's, and a frozen copy of the teacher's classifier
    on these."""

    weight_KD: Tensor
    bias_K: Tensor

    def __init__(self, student_channels: int, classifier: nn.Linear) -> None:
        super().__init__()
        self.connector = pointwise(student_channels, classifier.in_features)
        bias_K = classifier.weight.new_zeros(classifier.out_features) if classifier.bias is None else classifier.bias
        self.register_buffer("weight_KD", classifier.weight.detach().clone())
        self.register_buffer("bias_K", bias_K.detach().clone())

    def forward(self, student_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The student's features (N, D), a mean over space, and their logits (N, K)."""
        h_ND = self.connector(student_NCHW).relu().mean((2, 3))
        return h_ND, F.linear(h_ND, self.weight_KD, self.bias_K)
