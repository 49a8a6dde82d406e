"""Passes over a split, and the task's metrics of a network on it. Always in float32."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from retort.dataset import Split
from retort.engine.group import ALONE, Group
from retort.engine.interrupt import Interrupt
from retort.engine.onnx_runtime import RuntimeNetwork
from retort.network import Network
from retort.outputs import Outputs
from retort.task import Score, Task


def passes(
    task: Task,
    network: Network | RuntimeNetwork,
    split: Split,
    batch_size: int,
    device: torch.device,
    *wanted: str,
    interrupt: Interrupt,
    positions: Tensor | None = None,
) -> Iterator[tuple[Outputs, Tensor, Tensor]]:
    """Run over a split, or some of it, without augmentation or gradient: (outputs, targets, positions) a batch.

    The network is in eval mode meanwhile and gets its old mode back.
    """
    was_training = network.training
    network.eval()
    try:
        order = torch.arange(len(split)) if positions is None else positions.cpu()
        for indices in torch.split(order, batch_size):
            interrupt.check()
            inputs = task.plain_inputs(split.inputs(indices).to(device))
            with torch.no_grad():
                yield network.read(inputs, wanted), split.targets[indices].to(device), indices.to(device)
    finally:
        network.train(was_training)


def score(
    task: Task,
    network: Network | RuntimeNetwork,
    split: Split,
    batch_size: int,
    device: torch.device,
    interrupt: Interrupt,
    group: Group = ALONE,
) -> Score:
    """Measure a network once on each example of a split, each process on its share; all of them get the same score."""
    meter = task.meter(device)
    share = torch.arange(len(split))[group.share(len(split))]
    for outputs, targets, _ in passes(task, network, split, batch_size, device, interrupt=interrupt, positions=share):
        meter.add(outputs, targets)
    return meter.result(split.targets, group)
