"""A data set whose images lie in memory."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import torch
from torch import Tensor

from retort.dataset import Channels, ImageClassFacts, LoadedDataset

ONE_STEP = 1 / 255
"""The least that a channel may differ by."""


class MemorySplit:
    """Labelled images as one (M, 3, H, W) uint8 tensor."""

    def __init__(self, pixels: Tensor, labels: Tensor) -> None:
        self.pixels = pixels
        self.targets = labels

    def __len__(self) -> int:
        return len(self.targets)

    def inputs(self, indices: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB images at those (N,) int64 positions."""
        # On the CPU several times as fast as pixels[indices].
        return self.pixels.index_select(0, indices)


def loaded(
    facts: ImageClassFacts,
    train: MemorySplit,
    validation: MemorySplit,
    test: MemorySplit,
    warnings: tuple[str, ...] = (),
) -> LoadedDataset:
    """The data set with its digest taken, and mean and deviation measured where the facts do not give them."""
    if facts.mean is None:
        facts = with_statistics(facts, [train.pixels])
    return LoadedDataset(facts, train, validation, test, digest((train, validation, test)), warnings)


def with_statistics(facts: ImageClassFacts, batches: Iterable[Tensor]) -> ImageClassFacts:
    """The facts with mean and deviation of those (N, 3, H, W) uint8 images."""
    mean, std = channel_statistics(batches)
    return facts.model_copy(update={"mean": mean, "std": std})


def channel_statistics(batches: Iterable[Tensor]) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel of all (N, 3, H, W) uint8 images, in [0, 1]; exact sums.

    A channel that has one value everywhere, as an unused one does, gets ONE_STEP: networks divide by it.
    """
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for pixels in batches:
        counts += torch.stack([torch.bincount(pixels[:, c].flatten(), minlength=256) for c in range(3)])
    values = torch.arange(256, dtype=torch.float64) / 255
    shares = counts.double() / counts.sum(1, keepdim=True)
    means = (shares * values).sum(1)
    variances = (shares * (values - means[:, None]) ** 2).sum(1)
    return _three(means), _three(torch.where(variances > 0, variances.sqrt(), ONE_STEP))


def _three(values: Tensor) -> Channels:
    red, green, blue = (round(value, 6) for value in values.tolist())
    return red, green, blue


def digest(splits: tuple[MemorySplit, ...]) -> str:
    """sha256, hex, of all parts' shapes, images and labels in order."""
    made = sha256()
    for split in splits:
        made.update(repr(tuple(split.pixels.shape)).encode())
        made.update(split.pixels.contiguous().numpy().data)
        made.update(split.targets.contiguous().numpy().data)
    return made.hexdigest()
