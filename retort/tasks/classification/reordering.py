"""The order of a classifier's outputs."""

from __future__ import annotations

import torch
from torch import nn

from retort.network import Network
from retort.task import TaskError


def reorder(network: Network, order: tuple[int, ...]) -> None:
    """Put a network's outputs into another order, in place: output i is then the former output order[i].

    Raises TaskError where the classifier does not have one row for each output.
    """
    index = torch.tensor(order)
    for name in (network.layout.classifier, *network.layout.further_classifiers):
        module = network.body.get_submodule(name)
        rows = [*module.parameters(), *module.buffers()]
        if isinstance(module, nn.Sequential) or not rows or any(tensor.shape[:1] != index.shape for tensor in rows):
            raise TaskError(
                "the classifier does not have one row for each output, so they cannot be put into the data set's order"
            )
        with torch.no_grad():
            for tensor in rows:
                tensor.copy_(tensor[index])
