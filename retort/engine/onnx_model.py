"""ONNX files as user models: the body of their network, their card, and their record."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from retort.architecture import Card
from retort.engine.interrupt import Impossible
from retort.engine.onnx_network import OnnxNetwork
from retort.engine.onnx_shapes import multiply_adds
from retort.user_model import ONNX, Expects, UserModel, expects_in, parsed_class_names, parsed_expects


class OnnxBody(nn.Module):
    """An ONNX network in the place of a body; its only module of torch puts the logits into an order."""

    fingerprint: Tensor

    def __init__(self, network: OnnxNetwork) -> None:
        super().__init__()
        self.network = network
        # Networks are compared by their tensors.
        self.register_buffer("fingerprint", torch.tensor(list(network.digest), dtype=torch.uint8))
        self.classifier = OutputOrder(network.outputs)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.network.run(images))
        return logits


class OutputOrder(nn.Module):
    """A permutation of the K columns of (N, K) logits."""

    order: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(outputs))

    def forward(self, logits_NK: Tensor) -> Tensor:
        return logits_NK[:, self.order]


def onnx_card(network: OnnxNetwork, expects: Expects) -> Card:
    """The card of an ONNX network: its counts, and nothing to read but logits."""
    graph = network.model.graph
    counts = [prod(tensor.dims) for tensor in graph.initializer]
    return Card(
        architecture=ONNX,
        family=ONNX,
        stages=(),
        embedding=0,
        head="other",
        preactivations=False,
        body_parameters=sum(counts),
        image_size=expects.size,
        multiply_adds=multiply_adds(network.model.graph, network.shapes(expects.size)) // (network.batch or 1),
        classifier_bias=False,
    )


def completed(record: UserModel, network: OnnxNetwork) -> UserModel:
    """The record, completed from the file's metadata where the user left fields empty.

    Raises Impossible where neither gives an expectation, or where the file contradicts the record.
    """
    stated = expects_in(network.metadata)
    expects = record.expects or _stated_expects(stated, network)
    _check_expects(expects, network)
    names = record.class_names
    try:
        if names is None and "class_names" in stated:
            names = parsed_class_names(stated["class_names"])
        for source, count in (("its record", record.outputs), ("its class names", names and len(names))):
            if count is not None and count != network.outputs:
                raise Impossible(f"the ONNX network gives {network.outputs} outputs; wanted {count} by {source}")
        card = onnx_card(network, expects)
        return record.completed(outputs=network.outputs, class_names=names, expects=expects, card=card)
    except ValidationError as error:
        first = error.errors()[0]
        raise Impossible(f"the record of the ONNX network is wrong in {first['loc'][0]}: {first['msg']}") from error
    except ValueError as error:
        raise Impossible(str(error)) from error


def _stated_expects(stated: Mapping[str, Any], network: OnnxNetwork) -> Expects:
    fields = dict(stated.get("expects", {}))
    if "retort" in network.metadata:
        # Retort's exports normalise images in [0, 1] themselves.
        fields |= {"channel_order": "rgb", "mean": [0.0] * 3, "std": [1.0] * 3}
    if network.size is not None:
        fields["size"] = network.size
    expects, wrong = parsed_expects(fields)
    if expects is None:
        raise Impossible(
            f"the ONNX file does not describe the images that it expects; give expects.{next(iter(wrong))}"
        )
    return expects


def _check_expects(expects: Expects, network: OnnxNetwork) -> None:
    """Raise Impossible where the graph takes other images."""
    if network.size is not None and expects.size != network.size:
        raise Impossible(f"the ONNX file takes images of {network.size} pixels a side; expects says {expects.size}")
    if network.form.channels != expects.channels:
        wanted = "grey, and one number each as mean and std" if network.form.channels == 1 else "rgb or bgr"
        raise Impossible(
            f"the ONNX file takes {network.form}; expects says the channel_order {expects.channel_order}; wanted "
            f"{wanted}"
        )
    if network.reads_pixels and (expects.range, {*expects.mean}, {*expects.std}) != ((0, 255), {0}, {1}):
        raise Impossible(
            "the ONNX file takes pixels as whole numbers (uint8); wanted the range [0, 255], mean 0 and std 1 in "
            "expects"
        )
