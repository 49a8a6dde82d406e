"""Optimizers and the course of the learning rate, made from a recipe's training settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from worker.method import Method
from worker.recipe import SGD, Cosine, Steps, Training


def make_optimizer(
    training: Training, trained: Iterable[nn.Parameter], methods: Iterable[tuple[Method, nn.Module | None]]
) -> torch.optim.Optimizer:
    """An optimizer over a network's parameters and those of its methods' modules, each parameter once.

    A group's `rate` is its learning rate before the schedule.
    """
    settings = training.optimizer
    rate = settings.learning_rate
    assert rate != "auto", "the recipe has been resolved"
    seen: set[int] = set()
    groups: list[dict[str, Any]] = []

    def add(parameters: Iterable[nn.Parameter], group: dict[str, Any]) -> None:
        fresh = [p for p in parameters if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in fresh)
        if fresh:
            groups.append(
                {
                    "params": fresh,
                    "rate": rate * group.get("learning_rate_factor", 1.0),
                    "lr": rate * group.get("learning_rate_factor", 1.0),
                    "weight_decay": settings.weight_decay * group.get("weight_decay_factor", 1.0),
                }
            )

    add(trained, {})
    for method, modules in methods:
        for group in method.parameter_groups(modules) if modules is not None else ():
            add(group["params"], group)
    if isinstance(settings, SGD):
        return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=settings.nesterov)
    return torch.optim.AdamW(groups, lr=rate, betas=(settings.beta1, settings.beta2))


def course(training: Training, epoch: float, step: float) -> float:
    """What the learning rate is multiplied by in a step, a pure number.

    `epoch` counts the epochs that are done before the step, `step` is the share of its epoch that the step is. A
    function of these alone, so that there is no state to resume.
    """
    warmup = training.warmup_epochs
    if epoch < warmup:
        return (epoch + step) / warmup
    schedule = training.schedule
    if isinstance(schedule, Cosine):
        return 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (training.epochs - warmup)))
    if isinstance(schedule, Steps):
        return schedule.factor ** sum(int(epoch) >= milestone for milestone in schedule.milestones)
    return 1.0


def take_step(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """One optimizer step at that share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor
    optimizer.step()
