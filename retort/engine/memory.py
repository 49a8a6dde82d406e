"""The first step of a training, which shows whether a batch fits into memory, and the search for one that does."""

from __future__ import annotations

from copy import deepcopy
from typing import Protocol

import torch

from retort.engine.causes import is_out_of_memory
from retort.engine.checkpoint import State
from retort.engine.epoch_plan import SMALLEST_BATCH
from retort.engine.frozen import FrozenNetworks
from retort.engine.interrupt import MemoryExhausted
from retort.engine.loading import LoadedBatch
from retort.engine.train_state import TrainState
from retort.recipe import Training


class StepComputer(Protocol):
    """The members of a trainer that are needed here."""

    training: Training
    train_states: list[TrainState]
    frozen: FrozenNetworks
    micro_batches: int
    step: int

    @property
    def device(self) -> torch.device: ...

    def compute_step(self, epoch: int, loaded: LoadedBatch) -> None: ...

    def state(self) -> State: ...

    def load(self, state: State) -> None: ...

    def use_cache(self) -> None: ...

    def check_interrupt(self) -> None: ...

    def warn(self, text: str) -> None: ...


def first_step(trainer: StepComputer, epoch: int, loaded: LoadedBatch) -> None:
    """Compute the first step, in ever more micro-batches if the recipe allows that.

    Raises MemoryExhausted, with the largest batch that fits, where it does not.
    """
    before = deepcopy(trainer.state())
    while True:
        trainer.check_interrupt()
        if _computes(trainer, epoch, loaded):
            return
        _take_back(trainer, before)
        count = len(loaded.targets)
        if trainer.training.on_out_of_memory == "fail" or trainer.micro_batches > count // 2:
            raise MemoryExhausted(_fitting_batch(trainer, epoch, loaded, before))
        trainer.micro_batches *= 2
        trainer.warn(
            f"a batch of {trainer.training.batch_size} examples does not fit into memory at once; each is computed "
            f"in {trainer.micro_batches} micro-batches"
        )
        trainer.use_cache()
        trainer.frozen.begin_epoch(epoch)


def _computes(trainer: StepComputer, epoch: int, loaded: LoadedBatch) -> bool:
    """Compute a step; False, halfway through it, when memory runs out."""
    try:
        trainer.compute_step(epoch, loaded)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _take_back(trainer: StepComputer, before: State) -> None:
    """Undo a step that ended halfway."""
    for train_state in trainer.train_states:
        train_state.optimizer.zero_grad(set_to_none=True)
    trainer.load(before | {"micro_batches": trainer.micro_batches})
    if trainer.device.type == "cuda":
        torch.cuda.empty_cache()


def _fitting_batch(trainer: StepComputer, epoch: int, loaded: LoadedBatch, before: State) -> str:
    """A sentence with the largest batch that fits, found by trying, to an eighth."""
    examples = -(-len(loaded.targets) // trainer.micro_batches)
    trainer.micro_batches = 1
    too_many, fitting = examples, 0
    tried = too_many // 2
    while tried >= SMALLEST_BATCH and too_many - fitting > too_many / 8:
        trainer.check_interrupt()
        if _computes(trainer, epoch, loaded.first(tried)):
            fitting = tried
        else:
            too_many = tried
        _take_back(trainer, before)
        tried = (too_many + fitting) // 2
    found = f"{fitting} do" if fitting else f"not even {SMALLEST_BATCH} do"
    return f"the device's memory ran out: {examples} examples of a batch do not fit at once, {found}"
