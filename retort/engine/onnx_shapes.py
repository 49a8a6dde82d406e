"""What an ONNX graph says of the shapes of its tensors, and what can be told from them: memory and multiply-adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from retort.engine.interrupt import Impossible
from retort.engine.onnx_graph import first_line, graphs_within

SMALL_TENSOR = 4096
"""Bytes of the largest tensor whose values may say what shape others have."""
LONGEST_SHAPE = 1024
INTEGERS = (6, 7)
"""TensorProto.INT32 and INT64, which shapes are told in."""
Shape = tuple[list[int | None], int]
"""Of a tensor: its sides, None where they cannot be told, and the bytes of one of its numbers."""
UNKNOWN: Shape = ([None], 0)


def shapes_for(model: Any, name: str, images: tuple[int, ...]) -> dict[str, Shape]:
    """Shapes for images of that shape; worked out anew, whatever the file says of them, and without its weights."""
    from onnx import ModelProto, TensorProto, helper, shape_inference

    bare = ModelProto(ir_version=max(4, model.ir_version), opset_import=model.opset_import, functions=model.functions)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, images))
    for value in model.graph.output:
        graph.output.append(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None))
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= SMALL_TENSOR:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        inferred = shape_inference.infer_shapes(bare)
        if not model.functions and not _has_long_lists(inferred):
            inferred = shape_inference.infer_shapes(bare, data_prop=True)
    except (shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise Impossible(f"the ONNX file is not valid: {first_line(error)}") from error
    kinds = {value.name: value.type.tensor_type for value in _values(inferred.graph)}
    found = {
        name: ([dimension(d) for d in kind.shape.dim] if kind.HasField("shape") else [None], kind.elem_type)
        for name, kind in kinds.items()
    } | {tensor.name: (list(tensor.dims), tensor.data_type) for tensor in model.graph.initializer}
    return {name: (sides, _item_bytes(kind)) for name, (sides, kind) in found.items()}


def _values(graph: Any) -> Iterator[Any]:
    yield from (*graph.input, *graph.value_info, *graph.output)


def _has_long_lists(model: Any) -> bool:
    """Whether it computes lists that are longer than any shape: who follows what they hold may need all memory."""
    return any(
        len(shape.dim) == 1 and shape.dim[0].dim_value > LONGEST_SHAPE and value.type.tensor_type.elem_type in INTEGERS
        for part in graphs_within(model.graph)
        for value in _values(part)
        if (shape := value.type.tensor_type.shape)
    )


def _item_bytes(kind: int) -> int:
    from onnx import TensorProto, helper

    named = kind not in (TensorProto.UNDEFINED, TensorProto.STRING)
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize) if named else 8


def peak_bytes(graph: Any, shapes: Mapping[str, Shape]) -> int:
    """Bytes of what a run holds at once, each tensor from its making to its last use; unknown ones count as none."""

    def size(name: str) -> int:
        sides, item = shapes.get(name, UNKNOWN)
        return 0 if None in sides else prod(side for side in sides if side is not None) * item

    last = {name: number for number, node in enumerate(graph.node) for name in (*node.input, *node.output)}
    weights = sum(size(tensor.name) for tensor in graph.initializer)
    made = {name for node in graph.node for name in node.output}
    held = most = 0
    for number, node in enumerate(graph.node):
        held += sum(map(size, node.output))
        most = max(most, held)
        held -= sum(size(name) for name in {*node.input, *node.output} if name in made and last[name] == number)
    return weights + most


def multiply_adds(graph: Any, shapes: Mapping[str, Shape]) -> int:
    """Multiply-adds of convolutions and matrix products, as far as shapes are known."""

    def sides(name: str) -> list[int | None]:
        return shapes.get(name, UNKNOWN)[0]

    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            factors = [*sides(node.output[0]), *sides(node.input[1])[1:]]
        elif node.op_type in ("Gemm", "MatMul"):
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            factors = [*sides(node.output[0]), sides(node.input[0])[0 if turned else -1]]
        else:
            continue
        total += prod(f for f in factors if f is not None) if None not in factors else 0
    return total


def dimension(said: Any) -> int | None:
    """A side of a tensor, where the file says it as a number."""
    return said.dim_value if said.HasField("dim_value") and said.dim_value > 0 else None
