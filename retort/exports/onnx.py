"""ONNX: one file that takes RGB images in [0, 1] and gives logits, with names and preprocessing in its metadata."""

from __future__ import annotations

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
        import onnx_ir

        from retort.exports._onnx import captured, label

        assert network.image.size, "a trained student has an input size"
        model = captured(network, network.image.size, self.opset)
        label(model, description)
        onnx_ir.save(model, file)
