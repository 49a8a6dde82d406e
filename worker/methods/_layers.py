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
