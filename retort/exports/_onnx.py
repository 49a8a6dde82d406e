"""Writing of ONNX: the graph of a network, and the names and texts that go with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir
    from torch import nn


def captured(module: nn.Module, size: int, opset: int, *, optimize: bool = True) -> onnx_ir.Model:
    """The graph of a module that takes (N, 3, `size`, `size`) float32 `images`, any N, and gives (N, K) `logits`."""
    import torch

    program = torch.onnx.export(
        module,
        # Two images, not one: a batch of one would be taken for a constant.
        (torch.zeros(2, 3, size, size),),
        dynamo=True,
        opset_version=opset,
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
        optimize=optimize,
        verbose=False,
    )
    assert program is not None, "no file was named, so the program is returned"
    return program.model


def label(model: onnx_ir.Model, description: dict[str, Any]) -> None:
    """Put what a user must know into the file's metadata, and take paths of this machine's files out of it."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # from the exporter's stack traces
    known = {name: description[name] for name in ("class_names", "input") if name in description}
    you_feed = description["input"]["you_feed"]
    model.graph.inputs[0].doc_string = f"{you_feed}; the network normalises inside"
    model.metadata_props.update(
        {name: json.dumps(value) for name, value in (known | {"you_feed": you_feed, "retort": description}).items()}
    )
