"""The two ends of an ONNX graph, in the forms that exporters write: the images that go in, the logits that come out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from retort.engine.interrupt import Impossible
from retort.engine.onnx_graph import STANDARD, spell
from retort.engine.onnx_shapes import dimension

WANTED = "(N, 3, S, S) or (N, S, S, 3), or 1 in the place of 3 for grey images"
AS_EXPORTED = "torch.onnx.export(network, (torch.zeros(2, 3, S, S),), file, external_data=False)"
PASSED = frozenset(
    {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear"}
)
"""Operators behind the last one that keep its numbers, or round them."""
LAST = ("Softmax", "LogSoftmax", "Sigmoid")
"""Operators that make something else of logits, which are then read before them."""
LOGITS = "logits"
"""Name by which one output of several is read."""
MOST_NAMED = 5
LONGEST_NAME = 100


@dataclass(frozen=True)
class ImageForm:
    """The order of the axes of the images that a graph takes, and their channels."""

    channels: int
    """3, or 1 for grey images."""
    channels_last: bool

    def shape(self, count: int, size: int) -> tuple[int, int, int, int]:
        """The shape of that many images of `size` pixels a side."""
        return (count, size, size, self.channels) if self.channels_last else (count, self.channels, size, size)

    def __str__(self) -> str:
        return f"(N, S, S, {self.channels})" if self.channels_last else f"(N, {self.channels}, S, S)"


@dataclass(frozen=True)
class ImageEnd:
    """The input of a graph."""

    name: str
    kind: int
    """Of TensorProto: its dtype, of floats or uint8."""
    batch: int | None
    """Images in each of its batches; None is any number."""
    size: int | None
    """Side of its images, in pixels; None is any."""
    forms: tuple[ImageForm, ...]
    """The forms that its shape allows, the likeliest first."""


@dataclass(frozen=True)
class LogitEnd:
    """The output of a graph."""

    name: str
    before: str | None = None
    """The tensor that the last operator makes the output of; None where the output seems to be logits."""
    last: str = ""
    """That operator: one of LAST."""
    others: tuple[str, ...] = ()
    """Outputs that are not read."""


FORMS = tuple(ImageForm(channels, last) for channels in (3, 1) for last in (False, True))


def image_end(graph: Any) -> ImageEnd:
    """The input of a graph. Raises Impossible where it does not take images."""
    from onnx import TensorProto

    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1:
        listed = f" ({_listed(inputs)})" if inputs else ""
        raise Impossible(
            f"the ONNX file has {len(inputs)} inputs{listed}; wanted one, the images: export a network whose forward "
            "takes images alone"
        )
    (value,) = inputs
    kind = value.type.tensor_type.elem_type
    if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.UINT8):
        raise Impossible(
            f"the ONNX file's input {value.name[:LONGEST_NAME]!r} is {_kind(value)}; wanted a tensor of float32, "
            "float16, float64 or uint8: export network.float()"
        )
    sides = _sides(value)
    forms = tuple(_allowed(sides)) if len(sides) == 4 else ()
    if not forms:
        raise Impossible(
            f"the ONNX file's input {value.name[:LONGEST_NAME]!r} has the shape {spell(sides)}; wanted {WANTED}: "
            f"{AS_EXPORTED}"
        )
    rows = sides[1:3] if forms[0].channels_last else sides[2:]
    return ImageEnd(value.name, kind, sides[0], rows[0] or rows[1], forms)


def _sides(value: Any) -> list[int | None]:
    return [dimension(d) for d in value.type.tensor_type.shape.dim]


def _allowed(sides: list[int | None]) -> Iterator[ImageForm]:
    """The forms that a shape of four sides allows; where it gives the channels, no other."""
    found = []
    for form in FORMS:
        channels, rows = (sides[3], sides[1:3]) if form.channels_last else (sides[1], sides[2:])
        if channels in (None, form.channels) and (None in rows or rows[0] == rows[1]):
            found.append((form, channels is not None))
    certain = any(given for _, given in found)
    yield from (form for form, given in found if given or not certain)


def logit_end(graph: Any) -> LogitEnd:
    """The output of a graph that is read, with the last operator where that makes something else of logits.

    Raises Impossible where no output can be logits, or several can.
    """
    from onnx import TensorProto

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    found = [value for value in graph.output if value.type.tensor_type.elem_type in floats]
    if not found:
        listed = ", ".join(f"{value.name[:LONGEST_NAME]!r} is {_kind(value)}" for value in graph.output[:MOST_NAMED])
        seen = f"the ONNX file's output {listed}" if listed else "the ONNX file has no output"
        raise Impossible(
            f"{seen}; wanted a tensor of floats, the logits: export a network whose forward "
            "returns the logits, without argmax"
        )
    makers = {output: node for node in graph.node for output in node.output}
    ends = [_end(makers, value.name) for value in found]
    named = [end for end in ends if end.name == LOGITS]
    if len({end.before or end.name for end in ends}) > 1 and not named:
        raise Impossible(
            f"the ONNX file has {len(found)} outputs of floats ({_listed(found)}); wanted one, the logits: export a "
            f"network whose forward returns the logits alone, or name them: output_names=[{LOGITS!r}, ...]"
        )
    # Of logits and what is made of them, the logits.
    end = named[0] if named else min(ends, key=lambda one: one.before is not None)
    others = tuple(value.name for value in graph.output if value.name != end.name)
    return LogitEnd(end.name, end.before, end.last, others)


def _end(makers: dict[str, Any], name: str) -> LogitEnd:
    at, node = name, makers.get(name)
    while node is not None and node.op_type in PASSED and node.domain in STANDARD and node.input:
        at = node.input[0]
        node = makers.get(at)
    if node is not None and node.op_type in LAST and node.domain in STANDARD and node.input:
        return LogitEnd(name, node.input[0], node.op_type)
    return LogitEnd(name)


def _listed(values: list[Any]) -> str:
    more = f" and {len(values) - MOST_NAMED} more" if len(values) > MOST_NAMED else ""
    return ", ".join(repr(value.name[:LONGEST_NAME]) for value in values[:MOST_NAMED]) + more


def _kind(value: Any) -> str:
    from onnx import TensorProto

    if not value.type.HasField("tensor_type"):
        return "no tensor"
    return str(TensorProto.DataType.Name(value.type.tensor_type.elem_type))
