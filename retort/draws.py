"""Random numbers as functions of what they are for, not of what was drawn before.

Every draw depends on (seed, purpose, epoch, sample) or, when a whole batch shares it, on (seed, purpose, epoch, step),
and on nothing else: neither on what runs beside it nor on whether the run was interrupted. The mixing function is
SplitMix64's finaliser (Steele, Lea, Flood 2014), on wrapping int64, which gives the same bits on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer: the fraction of the golden ratio
FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
SECOND = -7723592293110705685  # 0x94D049BB133111EB


@dataclass(frozen=True)
class DrawPoint:
    """The place of a batch in the training: all that its draws depend on."""

    data_seed: int
    epoch: int
    step: int
    """Counts micro-batches, each with draws of its own."""
    indices: Tensor
    """(N,) int64 positions of the batch's examples in the training split."""
    teacher: Callable[[Tensor], Tensor] | None = None
    """Gives the teacher's (N, K) logits of a view's inputs, for views that depend on them."""


def key_of(*parts: int | str) -> int:
    """A signed 64-bit number that stands for a seed, a purpose and counters."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "big", signed=True)


def bits(key: int | Tensor, counters: Tensor) -> Tensor:
    """Mixed int64 numbers, one for each int64 counter."""
    x = (counters + 1) * GOLDEN + key
    x = (x ^ _shift(x, 30)) * FIRST
    x = (x ^ _shift(x, 27)) * SECOND
    return x ^ _shift(x, 31)


def _shift(x: Tensor, places: int) -> Tensor:
    """Logical right shift; torch's own is arithmetic on signed numbers."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def uniform(seed: int, purpose: str, epoch: int, samples: Tensor, count: int) -> Tensor:
    """(N, count) float32 in [0, 1): draws of their own for each of N samples."""
    columns = torch.arange(count, device=samples.device)
    mixed = bits(key_of(seed, purpose, epoch), samples[:, None] * count + columns)
    return _shift(mixed, 40).to(torch.float32) / (1 << 24)


def octets(seed: int, purpose: str, epoch: int, samples: Tensor, count: int) -> Tensor:
    """(N, count) uint8, all values alike: many draws of their own for each of N samples, eight from each number."""
    numbers = -(-count // 8)
    columns = torch.arange(numbers, device=samples.device)
    return bits(key_of(seed, purpose, epoch), samples[:, None] * numbers + columns).view(torch.uint8)[:, :count]


def integers(key: Tensor, below_N: Tensor, count: int) -> Tensor:
    """(N, count) int64 in [0, below_n): for each of N rows draws below its own int64 bound, from a 0-d int64 key.

    Bounds up to 2^24 are drawn without a bias that could be measured.
    """
    rows = torch.arange(len(below_N), device=below_N.device)
    mixed = bits(key, rows[:, None] * count + torch.arange(count, device=below_N.device))
    return _shift(mixed, 24) % below_N[:, None]


def order(seed: int, epoch: int, size: int, device: torch.device) -> Tensor:
    """(size,) int64: the positions of the training split in the order of that epoch."""
    mixed = bits(key_of(seed, "order", epoch), torch.arange(size, device=device))
    return mixed.argsort(stable=True)


def shared(seed: int, purpose: str, epoch: int, step: int) -> np.random.Generator:
    """A generator for draws that a whole batch shares."""
    return np.random.Generator(np.random.Philox(key=key_of(seed, purpose, epoch, step) & (2**64 - 1)))


@contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Torch's global generators seeded for what is made inside (initialisation, dropout), and restored after."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = [torch.cuda.current_device()] if used else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(key_of(*parts) & (2**63 - 1))
        yield
