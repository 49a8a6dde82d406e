"""Stratified parts, drawn without a library's generator: the same seed gives the same parts for ever. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256


def apportion(total: int, counts: Sequence[int]) -> tuple[int, ...]:
    """Share out a total in proportion to some counts, in whole numbers (largest remainder, the first at a tie)."""
    whole = sum(counts)
    exact = [total * count / whole for count in counts]
    shares = [int(share) for share in exact]
    by_remainder = sorted(range(len(counts)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return tuple(shares)


def drawn_order(count: int, seed: int, purpose: str) -> list[int]:
    """The numbers from 0 to count - 1 in an order that depends on seed and purpose alone."""
    return sorted(range(count), key=lambda i: sha256(f"{seed}/{purpose}/{i}".encode()).digest())


def split_off(labels: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """Positions that stay and positions that are split off, each in rising order; as many as `split_count` says.

    Classes give in proportion to their sizes; which of their images is drawn by the seed.
    """
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append(position)
    classes = sorted(members)
    given = apportion(split_count(len(labels), share), [len(members[label]) for label in classes])
    off = [
        members[label][i]
        for label, count in zip(classes, given, strict=True)
        for i in drawn_order(len(members[label]), seed, f"class {label}")[:count]
    ]
    return sorted(set(range(len(labels))).difference(off)), sorted(off)


def split_count(total: int, share: float) -> int:
    """How many of so many images are split off, known without their labels."""
    return round(total * share)
