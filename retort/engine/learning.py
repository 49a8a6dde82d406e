"""Signs that a network does not learn: looked for an epoch at a time, each told when it appears."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from retort.engine.checkpoint import State
from retort.task import Chance, Task

EXPLODED = 1000.0
"""Factor from the first step's loss (or from 1, where that is smaller) to a mean loss that counts as exploded."""
SHARE_LOOKED_AT = 0.25
"""Share of a training after which a network should be better than chance."""
CHANCE_ERRORS, DOUBTED_ERRORS = 1.0, 2.0
"""Standard errors above chance within which a network is at chance: at its end, and where something else is odd."""
FEWEST_STEPS = 20
"""Steps before which batch norm's running statistics are mostly those that it started from: a network that is fine in
training may still be at chance in evaluation."""
TINY = 1e-6
"""Size of weights that are not looked at: those that start from 0 are changed by the smallest step."""

WHOLE = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Dtypes of whole numbers by their bytes."""

EXPLODES, NO_GRADIENT, NO_CHANGE, AT_CHANCE = "explodes", "no gradient", "no change", "at chance"


@dataclass(frozen=True)
class Probe:
    """Measurements before the first step of an epoch, on the device."""

    gradient: Tensor
    """0-d float32, the largest absolute entry of all gradients."""
    weights: Tensor
    """0-d int64, a sum over the bits of all weights: the same as long as none of them changes."""

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> Probe:
        """Of all that an optimizer trains."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        largest = [p.grad.abs().amax().float() for p in parameters if p.grad is not None and p.grad.numel()]
        device = parameters[0].device if parameters else torch.device("cpu")
        nothing = torch.zeros((), device=device)
        return cls(torch.stack(largest).amax() if largest else nothing, weight_sum(optimizer))


def weight_sum(optimizer: torch.optim.Optimizer) -> Tensor:
    """0-d int64: the sum of the bits, read as whole numbers, of all weights that an optimizer trains but tiny ones."""
    parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    sums = [(p.view(WHOLE[p.itemsize]) * (p.abs() > TINY)).sum(dtype=torch.int64) for p in parameters]
    return torch.stack(sums).sum() if sums else torch.zeros((), dtype=torch.int64)


class LearningWatch:
    """Looks at one network's training. It changes no number of it, and fetches from the device once an epoch."""

    def __init__(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        self.name = name
        self.signs: dict[str, str] = {}
        """The signs that have appeared, each with its sentence; being at chance may pass."""
        self._optimizer = optimizer
        self._first_loss: Tensor | None = None
        self._probe: Probe | None = None

    def before_step(self, loss: Tensor) -> None:
        """Look at the gradients and weights of a step, the first of an epoch; `loss` is a 0-d tensor."""
        if self._first_loss is None:
            self._first_loss = loss
        if self._probe is None:
            self._probe = Probe.of(self._optimizer)

    def end_epoch(self, loss: float, epoch: int) -> list[str]:
        """Take an epoch's mean loss; the sentences of the signs that have appeared. `epoch` counts from 1."""
        assert self._first_loss is not None, "at least one step was taken"
        assert self._probe is not None, "at least one step was taken"
        first = float(self._first_loss)
        no_gradient = float(self._probe.gradient) == 0
        no_change = not no_gradient and int(self._probe.weights) == int(weight_sum(self._optimizer))
        self._probe = None
        rate = f"its learning rate is {self._optimizer.param_groups[0]['rate']:g}"
        found = {
            EXPLODES: f"{self.name}: the loss is {loss:.3g} in epoch {epoch}, and was {first:.3g} in the first step; a "
            f"smaller learning rate or smaller weights of its methods may help ({rate})",
            NO_GRADIENT: f"{self.name}: all gradients are zero in epoch {epoch}: its loss does not depend on its "
            "weights, so that nothing trains it",
            NO_CHANGE: f"{self.name}: no weight has changed in epoch {epoch}; {rate}, too small for any step",
        }
        seen = {
            EXPLODES: abs(loss) > EXPLODED * max(1.0, abs(first)),
            NO_GRADIENT: no_gradient,
            NO_CHANGE: no_change,
        }
        return [sentence for sign, sentence in found.items() if seen[sign] and self._appears(sign, sentence)]

    def evaluated(self, task: Task, value: float, chance: Chance, epoch: int) -> list[str]:
        """Take the headline metric on the validation split; its sentence where the network has come to chance."""
        sentence = f"{self.name} is {compared(task, 'validation', value, chance)} (epoch {epoch})"
        if at_chance(task, value, chance, DOUBTED_ERRORS):
            return [sentence] if self._appears(AT_CHANCE, sentence) else []
        self.signs.pop(AT_CHANCE, None)
        return []

    def _appears(self, sign: str, sentence: str) -> bool:
        """Note a sign; whether it is new."""
        return self.signs.setdefault(sign, sentence) is sentence

    def state(self) -> State:
        probe = self._probe
        return {
            "signs": dict(self.signs),
            "first_loss": self._first_loss,
            "probe": {"gradient": probe.gradient, "weights": probe.weights} if probe else None,
        }

    def load(self, state: State) -> None:
        self.signs, self._first_loss = dict(state["signs"]), state["first_loss"]
        self._probe = Probe(**state["probe"]) if state["probe"] else None


def at_chance(task: Task, value: float, chance: Chance, errors: float) -> bool:
    """Whether a value of the headline metric is at most that many standard errors better than chance."""
    margin = errors * chance.error
    return not task.headline.better(value, chance.value + (margin if task.headline.more_is_better else -margin))


def compared(task: Task, split: str, value: float, chance: Chance) -> str:
    """The rest of a sentence on a network that is at chance."""
    clearly = "not clearly better" if task.headline.better(value, chance.value) else "no better"
    return (
        f"{clearly} than chance: its {task.headline.name} on the {split} split is {value:.4f}, and {chance.guess} "
        f"gives {chance.value:.4f}"
    )
