"""Optimizers and the course of the learning rate, made from a recipe's training settings."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from retort.method import Method
from retort.recipe import SGD, Cosine, Steps, Training


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
    """Factor of the learning rate in a step, a pure number.

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


def take_step(optimizer: torch.optim.Optimizer, factor: float, clip_norm: float | None = None) -> None:
    """One optimizer step at that share of the learning rate, all gradients together no longer than `clip_norm`."""
    for group in optimizer.param_groups:
        group["lr"] = group["rate"] * factor
    if clip_norm is not None:
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    optimizer.step()


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimizer, its tensors laid out in memory like their parameters."""
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def averaged(network: nn.Module, training: Training) -> AveragedModel:
    """A copy of a network that follows it: v <- decay v + (1 - decay) w after each step, the first one taking w.

    Batch norm's running statistics are averaged in the same way.
    """
    assert training.weight_average is not None
    follow = get_ema_multi_avg_fn(training.weight_average.decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=follow, use_buffers=True)
