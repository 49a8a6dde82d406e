"""Readings of a network: the names of all that methods may read, and the tensors of one batch. Imports no torch.

Legend of shapes, everywhere: N examples, K outputs (the classes of a classifier), D features, C H W map (channels,
height, width).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

Read = Literal["logits", "embedding", "maps", "preactivations", "class_maps"]

READS: dict[Read, str] = {
    "logits": "logits",
    "embedding": "embedding",
    "maps": "stage maps",
    "preactivations": "stage maps before activation",
    "class_maps": "class activation maps",
}
"""Each reading in words."""


@dataclass(frozen=True)
class Outputs:
    """The outputs of one network for N examples. What was not tapped is None or empty."""

    logits: Tensor
    """(N, K) outputs of the head: class scores before softmax for a classifier."""
    embedding: Tensor | None = None
    """(N, D) input of the classifier."""
    maps: tuple[Tensor, ...] = ()
    """Each stage's map, shallow to deep, (N, C, H, W)."""
    preactivations: tuple[Tensor, ...] = ()
    """The same before the stage's last activation."""
    class_maps: Tensor | None = None
    """(N, K, H, W) the classifier at each position of the last map; its mean over space is the logits."""
