"""The input of a network: size, normalisation and channel order of its images. Imports no torch."""

from __future__ import annotations

from typing import Literal

from retort.spec import Spec


class Input(Spec):
    """Images that a network expects. They come as RGB in [0, 1]; the network does the rest itself."""

    size: int
    """Side of the square image, in pixels; others are resized (bilinear, antialiased)."""
    mean: tuple[float, float, float]
    """Subtracted from each channel of an image in [0, 1]."""
    std: tuple[float, float, float]
    """Divides each channel after the mean was subtracted."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order in which the network itself reads the colours; mean and std are given in that of RGB."""
