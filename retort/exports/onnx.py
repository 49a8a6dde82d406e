"""ONNX: one file that takes RGB images in [0, 1] and gives logits, with names and preprocessing in its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from retort.export import Export

if TYPE_CHECKING:
    from retort.network import Network


class Onnx(Export):
    """The whole network, its input's normalisation included, for onnxruntime and others; weights lie in the file.

    Input `images`: (N, 3, S, S) float32, RGB in [0, 1], any N; S is the size of the network's input. Output
    `logits`: (N, K) float32. The metadata's `class_names`, `input` and `retort` are JSON: the names in logit order,
    what the images must look like, and all of `student.json`; `you_feed` is the line that says what to feed, which is
    the input's description too.
    """

    suffix: ClassVar[str] = ".onnx"
    media_type: ClassVar[str] = "application/octet-stream"

    name: Literal["onnx"] = "onnx"
    opset: int = Field(default=18, ge=18, le=21)
    """Version of ONNX's operators."""

    def write(self, network: Network, description: dict[str, Any], file: Path) -> None:
        import torch

        size = network.image.size
        assert size, "a trained student has an input size"
        program = torch.onnx.export(
            network,
            # Two images, not one: a batch of one would be taken for a constant.
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            opset_version=self.opset,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("N", min=1)},),
            verbose=False,
        )
        assert program is not None, "no file was named, so the program is returned"
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # paths of this machine's files, from the exporter's stack traces
        known = {name: description[name] for name in ("class_names", "input") if name in description}
        you_feed = description["input"]["you_feed"]
        program.model.graph.inputs[0].doc_string = f"{you_feed}; the network normalises inside"
        program.model.metadata_props.update(
            {name: json.dumps(value) for name, value in (known | {"you_feed": you_feed, "retort": description}).items()}
        )
        program.save(str(file), external_data=False)
