"""A network that came as an ONNX file: looked through before it is run, and run as it is by onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import sha256
from math import prod
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from torch import Tensor, nn

from worker.architecture import Card
from worker.datasets._pictures import memory_budget
from worker.engine.interrupt import Impossible
from worker.engine.onnx_wire import check_wire
from worker.own_model import ONNX, Expects, OwnModel, expects_in, parsed_expects

LARGEST_FILE = 2**30
"""Bytes."""
STANDARD = frozenset({"", "ai.onnx"})
"""Domains whose operators are ONNX's own."""
MOST_NODES = 100_000
DEEPEST = 32
"""Graphs within graphs."""
TRIED_SIZE = 224
"""Side of the image with which a network is tried that reads any, and of which nobody has said what it expects."""
SECONDS_PER_IMAGE = 60.0
"""How long a network may think about each image of a batch: one that loops without end is told so."""
SMALL_TENSOR = 4096
"""Bytes of the largest tensor whose values may say what shape others have."""


def load_onnx(file: Path) -> OnnxNetwork:
    """The network of an ONNX file, ready to run. Raises Impossible, in one sentence, for all that is not wanted."""
    model = _parsed(file)
    _check_contents(model)
    _check_functions(model)
    _check_standard(model)
    return OnnxNetwork(model, file)


def metadata_of(network: OnnxNetwork) -> dict[str, str]:
    """What the file says of itself."""
    return {entry.key: entry.value for entry in network.model.metadata_props}


def _parsed(file: Path) -> Any:
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    size = file.stat().st_size
    if size > LARGEST_FILE:
        raise Impossible(f"the ONNX file has {size:,} bytes; at most {LARGEST_FILE:,} are read")
    content = file.read_bytes()
    check_wire(content, onnx.ModelProto.DESCRIPTOR)
    try:
        # The file alone: what it says lies elsewhere is not looked for.
        return onnx.load_model_from_string(content)
    except DecodeError as error:
        raise Impossible("the file is not ONNX: it cannot be parsed") from error


def _check_contents(model: Any) -> None:
    """Raise Impossible for operators of others, for data outside the file and for what is too large."""
    own = {(function.domain, function.name) for function in model.functions}
    nodes = 0
    if len(model.training_info):
        raise Impossible("the ONNX file holds training graphs; wanted one that only infers")
    for part in _parts(model):
        for node in part.node:
            nodes += 1
            if node.domain not in STANDARD and (node.domain, node.op_type) not in own:
                raise Impossible(
                    f"the ONNX file uses the operator {node.op_type} of {node.domain!r}; wanted ONNX's own alone"
                )
    if nodes > MOST_NODES:
        raise Impossible(f"the ONNX file has {nodes:,} nodes; at most {MOST_NODES:,} are read")
    for tensor in _tensors(model):
        if tensor.data_location == tensor.EXTERNAL or len(tensor.external_data):
            raise Impossible(f"the tensor {tensor.name!r} lies outside the ONNX file; wanted all of it in one file")
        # No number takes less than half a byte.
        if min(tensor.dims, default=0) < 0 or prod(tensor.dims) > 2 * tensor.ByteSize():
            raise Impossible(
                f"the tensor {tensor.name!r} is said to have the shape {_spell(list(tensor.dims))}, and the ONNX file "
                f"has {tensor.ByteSize():,} bytes of it"
            )


def _check_functions(model: Any) -> None:
    """Raise Impossible for functions that call each other, or so often that writing them out takes too many nodes."""
    functions = {(function.domain, function.name): function for function in model.functions}
    counted: dict[tuple[str, str], int] = {}

    def count(part: Any, depth: int) -> int:
        if depth > DEEPEST:
            raise Impossible(f"the ONNX file has functions that call others more than {DEEPEST} deep, or themselves")
        total = 0
        for graph in _within(part):
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
    """Every graph and function, however deep it stands."""
    for part in (model.graph, *model.functions):
        yield from _within(part)


def _within(part: Any) -> Iterator[Any]:
    """A graph or function, and every graph within it."""
    waiting = [(part, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > DEEPEST:
            raise Impossible(f"the ONNX file has more than {DEEPEST} graphs within each other")
        yield part
        for attribute in _attributes(part):
            waiting += [(graph, depth + 1) for graph in (attribute.g, *attribute.graphs) if graph.ByteSize()]


def _attributes(part: Any) -> Iterator[Any]:
    for node in part.node:
        yield from node.attribute
    # Functions have defaults for theirs.
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
        first = str(error).strip().splitlines()[0][:300]
        raise Impossible(f"the ONNX file is not valid: {first}") from error


@cache
def _bound_memory() -> None:
    """Have all tensors of this process's sessions come from one allocator, which gives no more than is allowed."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    cpu = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    limits = {"max_mem": memory_budget(), "arena_extend_strategy": 1}
    onnxruntime.create_and_register_allocator(cpu, onnxruntime.OrtArenaCfg(limits))


NO_MEMORY = ("Available memory of", "Failed to allocate memory", "bad_alloc", "bad allocation")
"""What onnxruntime says where it gets none."""
LONGEST_SHAPE = 1024
INTEGERS = (6, 7)
"""TensorProto.INT32 and INT64, which shapes are told in."""
Shape = tuple[list[int | None], int]


class OnnxNetwork:
    """A checked ONNX network in onnxruntime: one batch of images in, logits out. Copies share the session."""

    def __init__(self, model: Any, file: Path) -> None:
        import onnxruntime

        self.model = model
        self._input = self._only_input()
        self._output = self._only_output()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        _bound_memory()
        options.add_session_config_entry("session.use_env_allocators", "1")
        shape = [_dimension(d) for d in self._input.type.tensor_type.shape.dim]
        self.channels_last = shape[1] != 3 and shape[3] == 3
        self.batch = shape[0]
        """Images that it takes at once; None is any number."""
        sides = shape[1:3] if self.channels_last else shape[2:]
        if shape[3 if self.channels_last else 1] != 3 or (None not in sides and sides[0] != sides[1]):
            raise Impossible(
                f"the ONNX file's input {self._input.name!r} has the shape {_spell(shape)}; wanted (N, 3, S, S) or "
                "(N, S, S, 3)"
            )
        self.size = sides[0] or sides[1]
        """Side of the image that it takes, in pixels; None is any."""
        self.at_once = self.batch or self._images_that_fit()
        """Images that are run at once at most."""
        try:
            # From bytes, which have no folder that they could name files in; constants are computed when it runs,
            # where memory and time are bounded.
            self._session = onnxruntime.InferenceSession(
                file.read_bytes(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["ConstantFolding"],
            )
        except Exception as error:  # onnxruntime's own errors have no base of their own
            raise Impossible(f"onnxruntime cannot load the ONNX file: {_first_line(error)}") from error

    def shapes(self, size: int) -> dict[str, Shape]:
        """Shape of each tensor of the outermost graph by name, and bytes of one of its numbers, for one image of that
        side, or a fixed batch of them; as far as it can be told."""
        sides = (size, size, 3) if self.channels_last else (3, size, size)
        return _shapes(self.model, self._input.name, (self.batch or 1, *sides))

    def _images_that_fit(self) -> int:
        """Raises Impossible where not even one does."""
        budget = memory_budget()
        needed = _peak_bytes(self.model.graph, self.shapes(self.size or TRIED_SIZE))
        if needed > budget:
            raise Impossible(f"the ONNX network takes {needed:,} bytes for one image; at most {budget:,} are given")
        return max(1, budget // (2 * max(1, needed)))

    def run(self, images: Tensor) -> Tensor:
        """(N, K) float32 logits of (N, 3, S, S), on the images' device. Raises Impossible where it cannot be run."""
        parts = torch.split(images, self.at_once)
        # One reader of a fixed batch gets its last part filled up.
        said = [self._run(part)[: len(part)] for part in parts]
        return torch.cat(said).to(images.device)

    def _run(self, images: Tensor) -> Tensor:
        missing = (self.batch or len(images)) - len(images)
        given = images.detach().float().cpu()
        if missing:
            given = torch.cat([given, given[:1].expand(missing, -1, -1, -1)])
        given = given.permute(0, 2, 3, 1) if self.channels_last else given
        logits = self._answer(given)
        if logits.ndim != 2 or len(logits) != len(given):
            raise Impossible(
                f"the ONNX network gives {_spell(list(logits.shape))} for {len(given)} images; wanted (N, K) logits"
            )
        return torch.from_numpy(logits)

    def _answer(self, given: Tensor) -> Any:
        from onnxruntime import RunOptions

        options = RunOptions()
        seconds = SECONDS_PER_IMAGE * len(given)
        timer = Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            (logits,) = self._session.run([self._output.name], {self._input.name: given.contiguous().numpy()}, options)
        except Exception as error:
            if "terminate flag" in str(error):
                raise Impossible(
                    f"the ONNX network has no answer for a batch of {len(given)} after {seconds:g} s"
                ) from error
            if any(words in str(error) for words in NO_MEMORY):
                raise Impossible(
                    f"the ONNX network takes more memory for a batch of {len(given)} than the {memory_budget():,} "
                    "bytes that it is given"
                ) from error
            raise Impossible(f"the ONNX network cannot be run: {_first_line(error)}") from error
        finally:
            timer.cancel()
        return logits

    def _only_input(self) -> Any:
        graph = self.model.graph
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [one for one in graph.input if one.name not in constants]
        if len(inputs) != 1:
            raise Impossible(f"the ONNX file has {len(inputs)} inputs; wanted one, the images")
        self._check_float(inputs[0], "input")
        if len(inputs[0].type.tensor_type.shape.dim) != 4:
            found = _spell([_dimension(d) for d in inputs[0].type.tensor_type.shape.dim])
            raise Impossible(f"the ONNX file's input has the shape {found}; wanted (N, 3, S, S) or (N, S, S, 3)")
        return inputs[0]

    def _only_output(self) -> Any:
        outputs = self.model.graph.output
        if len(outputs) != 1:
            raise Impossible(f"the ONNX file has {len(outputs)} outputs; wanted one, the logits")
        self._check_float(outputs[0], "output")
        return outputs[0]

    def _check_float(self, value: Any, role: str) -> None:
        from onnx import TensorProto

        kind = value.type.tensor_type.elem_type
        if not value.type.HasField("tensor_type") or kind != TensorProto.FLOAT:
            named = TensorProto.DataType.Name(kind) if value.type.HasField("tensor_type") else "no tensor"
            raise Impossible(f"the ONNX file's {role} {value.name!r} is {named}; wanted a tensor of float32")

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        return self


class OnnxBody(nn.Module):
    """An ONNX network in the place of a body; its last module alone is torch's and puts logits into an order."""

    fingerprint: Tensor

    def __init__(self, network: OnnxNetwork) -> None:
        super().__init__()
        self.network = network
        digest = sha256(network.model.SerializeToString(deterministic=True)).digest()
        # Who asks whether two networks are the same looks at their tensors.
        self.register_buffer("fingerprint", torch.tensor(list(digest), dtype=torch.uint8))
        self.classifier = Order(_classes(network))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.network.run(images))
        return logits


class Order(nn.Module):
    """Puts K columns into an order."""

    order: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(classes))

    def forward(self, logits_NK: Tensor) -> Tensor:
        return logits_NK[:, self.order]


def _classes(network: OnnxNetwork) -> int:
    size = network.size or TRIED_SIZE
    return network.run(torch.zeros(network.batch or 1, 3, size, size)).shape[1]


def onnx_card(network: OnnxNetwork, expects: Expects) -> Card:
    """What is known of an ONNX network: its numbers, and that nothing but logits can be read."""
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
        multiply_adds=_multiply_adds(network, expects.size),
        classifier_bias=False,
    )


def _multiply_adds(network: OnnxNetwork, size: int) -> int:
    """Multiply-adds of convolutions and matrix products for one image, as far as the file tells its shapes."""
    shapes = {name: sides for name, (sides, _) in network.shapes(size).items()}
    total = 0
    for node in network.model.graph.node:
        made = shapes.get(node.output[0], [None])
        if node.op_type == "Conv":
            factors = [*made, *shapes.get(node.input[1], [None])[1:]]
        elif node.op_type in ("Gemm", "MatMul"):
            inner = shapes.get(node.input[0], [None])
            turned = any(a.name == "transA" and a.i for a in node.attribute)
            factors = [*made, inner[0] if turned else inner[-1]]
        else:
            continue
        total += prod(f for f in factors if f is not None) if None not in factors else 0
    return total // (network.batch or 1)


def _shapes(model: Any, name: str, images: tuple[int, ...]) -> dict[str, Shape]:
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
        raise Impossible(f"the ONNX file is not valid: {_first_line(error)}") from error
    kinds = {value.name: value.type.tensor_type for value in _values(inferred.graph)}
    found = {
        name: ([_dimension(d) for d in kind.shape.dim] if kind.HasField("shape") else [None], kind.elem_type)
        for name, kind in kinds.items()
    } | {tensor.name: (list(tensor.dims), tensor.data_type) for tensor in model.graph.initializer}
    return {name: (sides, _item_bytes(kind)) for name, (sides, kind) in found.items()}


def _values(graph: Any) -> Iterator[Any]:
    yield from (*graph.input, *graph.value_info, *graph.output)


def _has_long_lists(model: Any) -> bool:
    """Whether it computes lists that are longer than any shape: who follows what they hold may need all memory."""
    return any(
        len(shape.dim) == 1 and shape.dim[0].dim_value > LONGEST_SHAPE and value.type.tensor_type.elem_type in INTEGERS
        for part in _within(model.graph)
        for value in _values(part)
        if (shape := value.type.tensor_type.shape)
    )


def _item_bytes(kind: int) -> int:
    from onnx import TensorProto, helper

    named = kind not in (TensorProto.UNDEFINED, TensorProto.STRING)
    return int(helper.tensor_dtype_to_np_dtype(kind).itemsize) if named else 8


def _peak_bytes(graph: Any, shapes: Mapping[str, Shape]) -> int:
    """Bytes of what a run holds at once, each tensor from its making to its last use; unknown ones count as none."""

    def size(name: str) -> int:
        sides, item = shapes.get(name, ([None], 0))
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


def completed(record: OwnModel, network: OnnxNetwork) -> OwnModel:
    """The record with what the file itself says where the user said nothing. Raises Impossible for what nobody says."""
    told = expects_in(metadata_of(network))
    expects = record.expects
    if expects is None:
        from_file = dict(told.get("expects", {}))
        if "retort" in metadata_of(network):
            # Our exports bring images in [0, 1] to their mean and deviation themselves.
            from_file |= {"mean": [0.0] * 3, "std": [1.0] * 3}
        if network.size is not None:
            from_file["size"] = network.size
        expects, wrong = parsed_expects(from_file)
        if expects is None:
            raise Impossible(f"the ONNX file does not say what its images look like; give expects.{wrong[0]}")
    if network.size is not None and expects.size != network.size:
        raise Impossible(f"the ONNX file takes images of {network.size} pixels a side; expects says {expects.size}")
    names = record.class_names or tuple(map(str, told.get("class_names", ()))) or None
    found = network.run(torch.rand(network.batch or 1, 3, expects.size, expects.size)).shape[1]
    for what, count in (("classes were said", record.classes), ("class names", names and len(names))):
        if count is not None and count != found:
            raise Impossible(f"the ONNX network gives {found} classes; {count} {what}")
    card = onnx_card(network, expects)
    return record.model_copy(update={"expects": expects, "classes": found, "class_names": names, "card": card})


def _dimension(dimension: Any) -> int | None:
    return dimension.dim_value if dimension.HasField("dim_value") and dimension.dim_value > 0 else None


def _spell(shape: list[int | None]) -> str:
    return "(" + ", ".join("any" if side is None else str(side) for side in shape) + ")"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
