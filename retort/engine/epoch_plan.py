"""The epoch of each step of a training: epochs may differ in length."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate

SMALLEST_BATCH = 2
"""Batch norm cannot take the statistics of one example: a remainder of one is left out of its epoch."""


@dataclass(frozen=True)
class TrainingExtent:
    """Extent of a training."""

    epochs: int
    """Whole epochs done."""
    of_epochs: int
    steps: int
    """Optimizer steps done."""
    of_steps: int

    @property
    def end(self) -> bool:
        """Whether that is all of it."""
        return self.steps == self.of_steps


class EpochPlan:
    """The steps of a training, made from the number of examples that each of its epochs sees."""

    def __init__(self, examples: Iterable[int], batch_size: int) -> None:
        self.examples = tuple(examples)
        """Examples that each epoch sees."""
        self.batches = tuple(max(1, _batches(count, batch_size)) for count in self.examples)
        """Steps of each epoch."""
        self._starts = tuple(accumulate(self.batches, initial=0))

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self._starts[-1]

    def epoch(self, step: int) -> int:
        """The epoch of a step; the number of epochs once all steps are done."""
        return bisect_right(self._starts, step) - 1

    def extent(self, step: int) -> TrainingExtent:
        """Extent of the training before a step."""
        return TrainingExtent(self.epoch(step), len(self.batches), step, self.steps)

    def within(self, step: int) -> int:
        """Number of steps of its epoch before a step."""
        return step - self._starts[self.epoch(step)]

    def done(self, step: int) -> float:
        """Epochs that are done before a step."""
        epoch = self.epoch(step)
        return epoch + self.within(step) / self.batches[epoch]


def _batches(examples: int, batch_size: int) -> int:
    whole, rest = divmod(examples, batch_size)
    return whole + (rest >= SMALLEST_BATCH)
