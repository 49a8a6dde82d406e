"""Batches of a part of the data, on the device before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from retort.dataset import Split
from retort.datasets._memory import MemorySplit
from retort.method import Choice

AHEAD = 2
"""Batches that are read while one is computed."""
DEVICE_SHARE = 0.25
"""Share of a device's free memory that a part of the data may take."""


@dataclass(frozen=True)
class LoadedBatch:
    """A batch before augmentation."""

    positions: Tensor
    """(N,) int64 positions in the part, on the CPU."""
    indices: Tensor
    """The same on the device."""
    pixels: Tensor
    """(N, 3, H, W) uint8, on the device."""
    targets: Tensor
    """(N,) int64, on the device."""

    def first(self, count: int) -> LoadedBatch:
        """Its first images alone."""
        return LoadedBatch(self.positions[:count], self.indices[:count], self.pixels[:count], self.targets[:count])

    def micro_batches(self, count: int) -> list[LoadedBatch]:
        """The batch in that many parts of nearly equal size."""
        if count == 1:
            return [self]
        pieces = (torch.tensor_split(t, count) for t in (self.positions, self.indices, self.pixels, self.targets))
        return [LoadedBatch(*piece) for piece in zip(*pieces, strict=True) if len(piece[0])]


def on_device(split: Split, device: torch.device) -> Split:
    """The part on the device if it lies in memory and fits there, else as it is."""
    if device.type != "cuda" or not isinstance(split, MemorySplit):
        return split
    free, _ = torch.cuda.mem_get_info(device)
    if split.pixels.nbytes > DEVICE_SHARE * free:
        return split
    return MemorySplit(split.pixels.to(device), split.targets.to(device))


def batches(split: Split, positions: Iterable[Tensor], device: torch.device) -> Iterator[LoadedBatch]:
    """The images at each (N,) int64 positions, in order. What does not lie in memory is read ahead by a thread."""
    if isinstance(split, MemorySplit):
        for wanted in positions:
            yield _load(split, wanted, None, device)
        return
    yield from _ahead(split, ((wanted, None) for wanted in positions), device)


def chosen_batches(split: Split, choice: Choice, rows: Iterable[Tensor], device: torch.device) -> Iterator[LoadedBatch]:
    """The images at rows of an epoch's choice, blended as it says."""
    yield from _ahead(split, ((row, choice) for row in rows), device)


def _ahead(split: Split, wanted: Iterable[tuple[Tensor, Choice | None]], device: torch.device) -> Iterator[LoadedBatch]:
    with ThreadPoolExecutor(1, thread_name_prefix="loading") as reader:
        coming: deque[Future[LoadedBatch]] = deque()
        try:
            for rows, choice in wanted:
                coming.append(reader.submit(_load, split, rows, choice, device))
                if len(coming) > AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def _load(split: Split, rows: Tensor, choice: Choice | None, device: torch.device) -> LoadedBatch:
    positions = rows if choice is None else choice.positions.cpu()[rows]
    here = positions.to(split.targets.device)
    pixels = split.images(here)
    if choice is not None and choice.partner is not None and choice.weight is not None:
        weight = choice.weight.to(pixels.device)[rows.to(choice.weight.device)].view(-1, 1, 1, 1)
        other = split.images(choice.partner.to(pixels.device)[rows.to(pixels.device)])
        pixels = (weight * pixels + (1 - weight) * other).to(torch.uint8)
    return LoadedBatch(positions, here.to(device), pixels.to(device), split.targets[here].to(device))
