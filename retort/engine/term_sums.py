"""Terms of a network's loss, summed up on the device, and the step at which one was not a finite number."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from retort.engine.checkpoint import State

NEVER = 2**62


class TermSums:
    """Sums of the terms of a loss since they were last fetched."""

    def __init__(self) -> None:
        self.latest = torch.tensor(torch.nan)
        """0-d, the loss of the latest micro-batch."""
        self.names: tuple[str, ...] = ()
        self.steps = 0
        self._sums_T: Tensor | None = None
        """Float64, their total last."""
        self._wrong_T: Tensor | None = None
        """Int64, the first step at which each was not a finite number."""

    def _clear(self) -> None:
        self.names, self.steps, self._sums_T, self._wrong_T = (), 0, None, None

    def add(self, terms: Mapping[str, Tensor], share: float, step: int) -> None:
        """Take the terms of a share of a step's batch; nothing is fetched."""
        terms_T = torch.stack([term.detach().double() for term in terms.values()])
        values_T = torch.cat([terms_T, terms_T.sum(0, keepdim=True)])
        self.latest = values_T[-1]
        wrong_T = torch.where(values_T.isfinite(), NEVER, step)
        if self._sums_T is None or self._wrong_T is None:
            self.names, self._sums_T, self._wrong_T = tuple(terms), share * values_T, wrong_T
            return
        assert self.names == tuple(terms), "a network's terms are the same in every step"
        self._sums_T = self._sums_T + share * values_T
        self._wrong_T = torch.minimum(self._wrong_T, wrong_T)

    def means(self) -> dict[str, float]:
        """Mean of each term and of their total, `loss`, over the steps; fetched, and begun anew."""
        assert self._sums_T is not None, "at least one step was taken"
        sums = self._sums_T.tolist()
        means = {name: total / self.steps for name, total in zip((*self.names, "loss"), sums, strict=True)}
        self._clear()
        return means

    def first_wrong(self) -> tuple[int, list[str]] | None:
        """The first step with a value that is not a finite number, and the terms that had one; fetched."""
        if self._wrong_T is None:
            return None
        wrong = dict(zip((*self.names, "loss"), self._wrong_T.tolist(), strict=True))
        first = min(wrong.values())
        if first == NEVER:
            return None
        names = [name for name, step in wrong.items() if step == first]
        return first, [name for name in names if name != "loss"] or names

    def state(self) -> State:
        return {"names": list(self.names), "steps": self.steps, "sums": self._sums_T, "wrong": self._wrong_T}

    def load(self, state: State) -> None:
        self.names, self.steps = tuple(state["names"]), state["steps"]
        self._sums_T, self._wrong_T = state["sums"], state["wrong"]
