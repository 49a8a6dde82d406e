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
