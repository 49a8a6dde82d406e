"""The label term of classification."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from retort.method import Batch
from retort.view import CLEAN


def cross_entropy(logits: Tensor, batch: Batch, smoothing: float) -> Tensor:
    """The mean over (N, K) logits of a batch's clean images; of a mixed one both labels count, by their shares."""
    mixed = batch.mixed.get(CLEAN)
    if mixed is None:
        return F.cross_entropy(logits, batch.targets, label_smoothing=smoothing)
    own, other = (
        F.cross_entropy(logits, batch.targets[of], label_smoothing=smoothing, reduction="none")
        for of in (mixed.image, mixed.partner)
    )
    return (mixed.weight * own + (1 - mixed.weight) * other).mean()
