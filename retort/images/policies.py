"""Operation and strength for each image of a batch: RandAugment, AutoAugment, TrivialAugment.

Operations and strengths are those of torchvision, whose tables follow the papers' code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, singledispatch

import torch
from torch import Tensor

from retort.augmentation import AutoAugmentPolicy, Policy, RandAugmentPolicy, TrivialAugmentPolicy
from retort.images.operations import NUMBER, apply

DRAWN = 14
"""RandAugment and TrivialAugment draw from the first of OPERATIONS: all but `invert`."""
SIGNED = 10
"""The first of OPERATIONS go either way."""
FINEST = 30
"""The largest magnitude of RandAugment and TrivialAugment."""
LEARNED_FINEST = 9
"""The largest magnitude in LEARNED."""

LEARNED = {
    "cifar10": """
        invert 0.1, contrast 0.2 6; rotate 0.7 2, translate_x 0.3 9; sharpness 0.8 1, sharpness 0.9 3;
        shear_y 0.5 8, translate_y 0.7 9; autocontrast 0.5, equalize 0.9; shear_y 0.2 7, posterize 0.3 7;
        color 0.4 3, brightness 0.6 7; sharpness 0.3 9, brightness 0.7 9; equalize 0.6, equalize 0.5;
        contrast 0.6 7, sharpness 0.6 5; color 0.7 7, translate_x 0.5 8; equalize 0.3, autocontrast 0.4;
        translate_y 0.4 3, sharpness 0.2 6; brightness 0.9 6, color 0.2 8; solarize 0.5 2, invert 0;
        equalize 0.2, autocontrast 0.6; equalize 0.2, equalize 0.6; color 0.9 9, equalize 0.6;
        autocontrast 0.8, solarize 0.2 8; brightness 0.1 3, color 0.7 0; solarize 0.4 5, autocontrast 0.9;
        translate_y 0.9 9, translate_y 0.7 9; autocontrast 0.9, solarize 0.8 3; equalize 0.8, invert 0.1;
        translate_y 0.7 9, autocontrast 0.9
    """,
    "imagenet": """
        posterize 0.4 8, rotate 0.6 9; solarize 0.6 5, autocontrast 0.6; equalize 0.8, equalize 0.6;
        posterize 0.6 7, posterize 0.6 6; equalize 0.4, solarize 0.2 4; equalize 0.4, rotate 0.8 8;
        solarize 0.6 3, equalize 0.6; posterize 0.8 5, equalize 1; rotate 0.2 3, solarize 0.6 8;
        equalize 0.6, posterize 0.4 6; rotate 0.8 8, color 0.4 0; rotate 0.4 9, equalize 0.6;
        equalize 0, equalize 0.8; invert 0.6, equalize 1; color 0.6 4, contrast 1 8;
        rotate 0.8 8, color 1 2; color 0.8 8, solarize 0.8 7; sharpness 0.4 7, invert 0.6;
        shear_x 0.6 5, equalize 1; color 0.4 0, equalize 0.6; equalize 0.4, solarize 0.2 4;
        solarize 0.6 5, autocontrast 0.6; invert 0.6, equalize 1; color 0.6 4, contrast 1 8;
        equalize 0.8, equalize 0.6
    """,
}
"""Pairs of an operation, its probability, and its magnitude if it has one."""

Size = tuple[int, int]
"""Height and width in pixels."""
Draw = Callable[[int], Tensor]
"""Gives (N, count) float32 in [0, 1): draws of their own for each image."""


def follow(policy: Policy, images: Tensor, draw: Draw) -> Tensor:
    """(N, 3, H, W) float32 images in [0, 1], each changed as the policy chooses for it."""
    for operation, strength in chosen(policy, draw, (images.shape[2], images.shape[3]), images.device):
        images = apply(images, operation, strength)
    return images


@singledispatch
def chosen(policy: Policy, draw: Draw, size: Size, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Operations for images of that size, one after the other: (N,) int64 operations, (N,) float64 strengths."""
    raise TypeError(f"no way is known to follow the policy {policy!r}")


@chosen.register
def _(policy: RandAugmentPolicy, draw: Draw, size: Size, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    share = torch.full((), policy.magnitude / FINEST, dtype=torch.float64, device=device)
    for choice, sign in draw(2 * policy.operations).T.view(policy.operations, 2, -1):
        operation = (choice * DRAWN).long()
        yield operation, _strength(_narrow(size, device), operation, share, sign)


@chosen.register
def _(policy: TrivialAugmentPolicy, draw: Draw, size: Size, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    choice, magnitude, sign = draw(3).unbind(1)
    operation = (choice * DRAWN).long()
    share = (magnitude * (FINEST + 1)).floor().double() / FINEST
    yield operation, _strength(_wide(device), operation, share, sign)


@chosen.register
def _(policy: AutoAugmentPolicy, draw: Draw, size: Size, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    which, first_happens, first_sign, second_happens, second_sign = draw(5).unbind(1)
    operations, probabilities, shares = _learned(policy.learned_on, device)
    pair = (which * len(operations)).long()
    for i, happens, sign in ((0, first_happens, first_sign), (1, second_happens, second_sign)):
        operation = torch.where(happens < probabilities[pair, i], operations[pair, i], NUMBER["identity"])
        yield operation, _strength(_narrow(size, device), operation, shares[pair, i], sign)


def _strength(ranges: Tensor, operation: Tensor, share: Tensor, sign: Tensor) -> Tensor:
    """(N,) float64 strengths at a share of each operation's range, one of two signs for those that have them."""
    weakest, strongest = ranges[:, operation]
    strength = weakest + (strongest - weakest) * share
    strength = torch.where(operation == NUMBER["posterize"], strength.round(), strength)
    moves = (operation == NUMBER["translate_x"]) | (operation == NUMBER["translate_y"])
    strength = torch.where(moves, strength.trunc(), strength)
    return torch.where((sign < 0.5) & (operation < SIGNED), -strength, strength)


@cache
def _narrow(size: Size, device: torch.device) -> Tensor:
    """(2, operations) float64: RandAugment's and AutoAugment's weakest and strongest."""
    height, width = size
    return _ranges(device, 0.3, 150 / 331 * width, 150 / 331 * height, 30, 0.9, 4)


@cache
def _wide(device: torch.device) -> Tensor:
    """(2, operations) float64: TrivialAugmentWide's weakest and strongest."""
    return _ranges(device, 0.99, 32, 32, 135, 0.99, 2)


def _ranges(
    device: torch.device, shear: float, right: float, down: float, degrees: float, factor: float, bits: int
) -> Tensor:
    signed = (0, shear, shear, right, down, degrees, factor, factor, factor, factor)
    strongest = (*signed, bits, 0, 0, 0, 0)
    weakest = (*(0 for _ in signed), 8, 1, 0, 0, 0)
    return torch.tensor([weakest, strongest], dtype=torch.float64, device=device)


@cache
def _learned(data: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(pairs, 2) each: int64 operations, their probabilities, their shares of the strongest magnitude."""
    pairs = [[step.split() for step in pair.split(",")] for pair in LEARNED[data].split(";")]
    operations = [[NUMBER[name] for name, *_ in pair] for pair in pairs]
    probabilities = [[float(probability) for _, probability, *_ in pair] for pair in pairs]
    shares = [[int(magnitude[0]) / LEARNED_FINEST if magnitude else 0 for _, _, *magnitude in pair] for pair in pairs]
    return (
        torch.tensor(operations, device=device),
        torch.tensor(probabilities, device=device),
        torch.tensor(shares, dtype=torch.float64, device=device),
    )
