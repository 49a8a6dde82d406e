"""ONNX files parsed and checked: a file with anything unwanted is refused before it is run."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

from retort.engine.interrupt import Impossible
from retort.engine.watchdog import ends_within

LARGEST_FILE = 2**30
"""Bytes."""
PARSED_ROOM = 512 * 2**20
"""Bytes that a parsed file may take beyond twice its size. Weights take their size once, or twice where they are lists
of floats; a network of 10,000 nodes takes 16 MiB. An empty message takes 150 bytes, where it had 2 in the file."""
STANDARD = frozenset({"", "ai.onnx"})
"""Domains whose operators are ONNX's own."""
AS_FLOATS = "export network.float(), with opset_version=18"
"""Advice where operators are not offered for a dtype."""
EXPORTED_WITHOUT = {"com.microsoft": "export it without onnxruntime's optimisation"}
"""Advice by the domain of operators that are not read."""
MOST_NODES = 100_000
MOST_TENSORS = 100_000
DEEPEST = 32
"""Graphs within graphs."""
LOADING_SECONDS = 60.0
"""Longest stretch of loading: parsing and checking, the inference of shapes, and the session are one each."""
SLOW_TO_LOAD = f"the ONNX file was not loaded within {LOADING_SECONDS:g} s; wanted a network that loads in less"
NO_MEMORY = "alloc failed"
"""Part of protobuf's error where it gets no memory."""


def parse_onnx(file: Path) -> Any:
    """The ModelProto of a file. Raises Impossible, in one sentence, for everything unwanted."""
    with ends_within(LOADING_SECONDS, SLOW_TO_LOAD):
        model = _parsed(file)
        _check_contents(model)
        _check_functions(model)
        _check_standard(model)
    return model


def graphs_within(graph: Any) -> Iterator[Any]:
    """A graph or function, and every graph within it."""
    waiting = [(graph, 0)]
    while waiting:
        graph, depth = waiting.pop()
        if depth > DEEPEST:
            raise Impossible(f"the ONNX file has more than {DEEPEST} graphs within each other")
        yield graph
        for attribute in _attributes(graph):
            waiting += [(inner, depth + 1) for inner in (attribute.g, *attribute.graphs) if inner.ByteSize()]


def spell(shape: list[int | None]) -> str:
    """A shape for people."""
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"


def first_line(error: Exception) -> str:
    """The first line of a library's error, cut to the length of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def too_new(model: Any) -> str:
    """A sentence about a file of a later version than is read."""
    opsets = " and ".join(str(each.version) for each in model.opset_import[:3])
    return (
        f"the ONNX file has opset {opsets} and IR version {model.ir_version}, later ones than are read: export it with "
        "opset_version=18"
    )


def _parsed(file: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise Impossible(f"the ONNX file has {size:,} bytes; at most {LARGEST_FILE:,} are read")
    content, room = file.read_bytes(), 2 * size + PARSED_ROOM
    try:
        # From bytes: data that the file places elsewhere is not looked for.
        with _memory_bound(room):
            return onnx.load_model_from_string(content)
    except (DecodeError, MemoryError) as error:
        if isinstance(error, MemoryError) or NO_MEMORY in str(error):
            raise Impossible(
                f"the ONNX file of {size:,} bytes takes more than {room:,} bytes of memory once it is parsed; write "
                "weights as raw data"
            ) from error
        raise Impossible("the file is not ONNX: it cannot be parsed") from error


@contextmanager
def _memory_bound(room: int) -> Iterator[None]:
    """Give this process no more than that many bytes of memory beyond what it has, where the kernel reports it."""
    try:
        held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [held + room, *(limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _check_contents(model: Any) -> None:
    """Raise Impossible for foreign operators, for data outside the file and for too many nodes or tensors."""
    own = {(function.domain, function.name) for function in model.functions}
    nodes = tensors = 0
    if len(model.training_info):
        raise Impossible("the ONNX file holds training graphs; wanted one that only infers")
    for part in _parts(model):
        # Counted before they are looked at: each takes microseconds.
        nodes += len(part.node)
        if nodes > MOST_NODES:
            raise Impossible(f"the ONNX file has {nodes:,} nodes; at most {MOST_NODES:,} are read")
        tensors += len(getattr(part, "initializer", ()))
        if tensors > MOST_TENSORS:
            raise Impossible(f"the ONNX file has {tensors:,} tensors; at most {MOST_TENSORS:,} are read")
        for node in part.node:
            if node.domain not in STANDARD and (node.domain, node.op_type) not in own:
                raise Impossible(
                    f"the ONNX file uses the operator {node.op_type} of {node.domain!r}; wanted ONNX's own alone: "
                    f"{EXPORTED_WITHOUT.get(node.domain, 'export a network of them')}"
                )
            _check_numbers(node)
    for tensor in _tensors(model):
        if tensor.data_type == tensor.STRING:
            raise Impossible(f"the tensor {tensor.name!r} of the ONNX file holds texts; wanted numbers alone")
        if tensor.data_location == tensor.EXTERNAL or len(tensor.external_data):
            raise Impossible(
                f"the tensor {tensor.name!r} lies outside the ONNX file; wanted all of it in one file: "
                "torch.onnx.export(..., external_data=False)"
            )
        # No number takes less than half a byte.
        if min(tensor.dims, default=0) < 0 or prod(tensor.dims) > 2 * tensor.ByteSize():
            raise Impossible(
                f"the tensor {tensor.name!r} has the shape {spell(list(tensor.dims))}, and the ONNX file has "
                f"{tensor.ByteSize():,} bytes of it"
            )


def _check_numbers(node: Any) -> None:
    """Raise Impossible where a node makes texts: onnxruntime takes memory for them that it does not bound."""
    from onnx import TensorProto

    for attribute in node.attribute:
        makes = attribute.name in ("value_string", "value_strings")
        if makes or (attribute.name in ("to", "dtype") and attribute.i == TensorProto.STRING):
            raise Impossible(f"the operator {node.op_type} of the ONNX file makes texts; wanted numbers alone")


def _check_functions(model: Any) -> None:
    """Raise Impossible for functions that call each other, or so often that writing them out takes too many nodes."""
    functions = {(function.domain, function.name): function for function in model.functions}
    counted: dict[tuple[str, str], int] = {}

    def count(part: Any, depth: int) -> int:
        if depth > DEEPEST:
            raise Impossible(f"the ONNX file has functions that call others more than {DEEPEST} deep, or themselves")
        total = 0
        for graph in graphs_within(part):
            for node in graph.node:
                name = (node.domain, node.op_type)
                if name in functions and name not in counted:
                    counted[name] = count(functions[name], depth + 1)
                total += counted.get(name, 1)
        if total > MOST_NODES:
            raise Impossible(f"the ONNX file has more than {MOST_NODES:,} nodes where its functions are written out")
        return total

    count(model.graph, 0)


def _parts(model: Any) -> Iterator[Any]:
    """Every graph and function at any depth."""
    for part in (model.graph, *model.functions):
        yield from graphs_within(part)


def _attributes(part: Any) -> Iterator[Any]:
    for node in part.node:
        yield from node.attribute
    # Functions have default attributes.
    yield from getattr(part, "attribute_proto", ())


def _tensors(model: Any) -> Iterator[Any]:
    for part in _parts(model):
        yield from getattr(part, "initializer", ())
        for attribute in _attributes(part):
            yield from (attribute.t, *attribute.tensors) if attribute.HasField("t") else attribute.tensors
            if attribute.HasField("sparse_tensor") or len(attribute.sparse_tensors):
                raise Impossible("the ONNX file holds a sparse tensor; wanted all of them dense")
        if len(getattr(part, "sparse_initializer", ())):
            raise Impossible("the ONNX file holds a sparse tensor; wanted all of them dense")


def _check_standard(model: Any) -> None:
    from onnx import checker, shape_inference

    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as error:
        if "is higher than the checker's" in str(error):
            raise Impossible(too_new(model)) from error
        advice = f"; {AS_FLOATS}" if "unsupported type" in str(error) else ""
        raise Impossible(f"the ONNX file is not valid: {first_line(error)}{advice}") from error
