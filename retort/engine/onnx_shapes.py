"""Shapes of an ONNX graph's tensors, and the memory and multiply-adds that follow from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from retort.engine.interrupt import Impossible
from retort.engine.onnx_graph import LOADING_SECONDS, SLOW_TO_LOAD, first_line, graphs_within
from retort.engine.watchdog import ends_within

SMALL_TENSOR = 4096
"""Bytes of the largest tensor whose values may give the shape of others."""
LONGEST_SHAPE = 1024
INTEGERS = (6, 7)
"""TensorProto.INT32 and INT64, the dtypes of shapes."""
Shape = tuple[list[int | None], int]
"""A tensor's sides, None where unknown, and the bytes of one of its numbers."""
UNKNOWN: Shape = ([None], 0)


def shapes_for(model: Any, name: str, kind: int, images: tuple[int, ...]) -> dict[str, Shape]:
    """Shape of each tensor by name, for images of that shape and dtype (of TensorProto) at the input `name`.

    Inferred without the weights, and without the shapes that the file itself declares. Raises Impossible for a graph
    that is not valid.
    """
    from onnx import ModelProto, helper, shape_inference

    bare = ModelProto(ir_version=max(4, model.ir_version), opset_import=model.opset_import, functions=model.functions)
    graph = bare.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.append(helper.make_tensor_value_info(name, kind, images))
    for value in model.graph.output:
        graph.output.append(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, None))
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= SMALL_TENSOR:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        with ends_within(LOADING_SECONDS, SLOW_TO_LOAD):
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
    """True if it computes lists longer than any shape: following their values may take all memory."""
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
    """Most bytes that a run holds at once, each tensor from its node to its last use; unknown ones count as none."""

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


def dimension(side: Any) -> int | None:
    """A side of a tensor; None where the file does not give it as a number."""
    return side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None
