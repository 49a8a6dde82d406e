"""Batches of a split, on the device before they are needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from retort.dataset import Split
from retort.datasets._memory import MemorySplit
from retort.method import Choice

AHEAD = 2
"""Batches that are read while one is computed."""
DEVICE_SHARE = 0.25
"""Share of a device's free memory that a split may take."""


@dataclass(frozen=True)
class LoadedBatch:
    """A batch before augmentation."""

    positions: Tensor
    """(N,) int64 positions in the split, on the CPU."""
    indices: Tensor
    """The same on the device."""
    inputs: Tensor
    """(N, ...) raw inputs, on the device: (N, 3, H, W) uint8 images."""
    targets: Tensor
    """(N, ...), on the device."""

    def first(self, count: int) -> LoadedBatch:
        """Its first examples alone."""
        return LoadedBatch(self.positions[:count], self.indices[:count], self.inputs[:count], self.targets[:count])

    def micro_batches(self, count: int) -> list[LoadedBatch]:
        """The batch in that many micro-batches of nearly equal size."""
        if count == 1:
            return [self]
        pieces = (torch.tensor_split(t, count) for t in (self.positions, self.indices, self.inputs, self.targets))
        return [LoadedBatch(*piece) for piece in zip(*pieces, strict=True) if len(piece[0])]


def on_device(split: Split, device: torch.device) -> Split:
    """The split on the device if it lies in memory and fits there, else as it is."""
    if device.type != "cuda" or not isinstance(split, MemorySplit):
        return split
    free, _ = torch.cuda.mem_get_info(device)
    if split.pixels.nbytes > DEVICE_SHARE * free:
        return split
    return MemorySplit(split.pixels.to(device), split.targets.to(device))


Blend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Mixes raw inputs with others by the (N,) shares of the first, as the task does."""


def batches(split: Split, positions: Iterable[Tensor], device: torch.device) -> Iterator[LoadedBatch]:
    """The examples at each (N,) int64 positions, in order. A split outside memory is read ahead by a thread."""
    if isinstance(split, MemorySplit):
        for wanted in positions:
            yield _load(split, wanted, device)
        return
    yield from _ahead(partial(_load, split, wanted, device) for wanted in positions)


def chosen_batches(
    split: Split, choice: Choice, rows: Iterable[Tensor], device: torch.device, blend: Blend
) -> Iterator[LoadedBatch]:
    """The examples at rows of an epoch's choice, blended by its weights."""
    yield from _ahead(partial(_load_chosen, split, choice, row, device, blend) for row in rows)


def _ahead(loads: Iterable[Callable[[], LoadedBatch]]) -> Iterator[LoadedBatch]:
    with ThreadPoolExecutor(1, thread_name_prefix="loading") as reader:
        coming: deque[Future[LoadedBatch]] = deque()
        try:
            for load in loads:
                coming.append(reader.submit(load))
                if len(coming) > AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()


def _load(split: Split, positions: Tensor, device: torch.device) -> LoadedBatch:
    here = positions.to(split.targets.device)
    return LoadedBatch(positions, here.to(device), split.inputs(here).to(device), split.targets[here].to(device))


def _load_chosen(split: Split, choice: Choice, rows: Tensor, device: torch.device, blend: Blend) -> LoadedBatch:
    loaded = _load(split, choice.positions.cpu()[rows], split.targets.device)
    inputs = loaded.inputs
    if choice.partner is not None and choice.weight is not None:
        weights = choice.weight.to(inputs.device)[rows.to(choice.weight.device)]
        others = split.inputs(choice.partner.to(inputs.device)[rows.to(inputs.device)])
        inputs = blend(inputs, others, weights)
    return LoadedBatch(loaded.positions, loaded.indices.to(device), inputs.to(device), loaded.targets.to(device))
