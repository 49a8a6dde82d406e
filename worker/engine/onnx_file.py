"""A network that came as an ONNX file: looked through before it is run, and run as it is by onnxruntime, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worker.architecture import Card
from worker.engine.interrupt import Impossible
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


def load_onnx(file: Path) -> OnnxNetwork:
    """The network of an ONNX file, ready to run. Raises Impossible, in one sentence, for all that is not wanted."""
    model = _parsed(file)
    _check_contents(model)
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
    try:
        # The file alone: what it says lies elsewhere is not looked for.
        return onnx.load_model_from_string(file.read_bytes())
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


def _parts(model: Any) -> Iterator[Any]:
    """Every graph and function, however deep it stands."""
    waiting = [(part, 0) for part in (model.graph, *model.functions)]
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
        for sparse in getattr(part, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for attribute in _attributes(part):
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _check_standard(model: Any) -> None:
    from onnx import checker, shape_inference

    try:
        checker.check_model(model, full_check=True)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise Impossible(f"the ONNX file is not valid: {first}") from error


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
        options.log_severity_level = 3
        try:
            # From bytes, which have no folder that they could name files in.
            self._session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own errors have no base of their own
            raise Impossible(f"onnxruntime cannot load the ONNX file: {_first_line(error)}") from error
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

    def run(self, images: Tensor) -> Tensor:
        """(N, K) float32 logits of (N, 3, S, S), on the images' device. Raises Impossible where it cannot be run."""
        parts = [images] if self.batch is None else list(torch.split(images, self.batch))
        # One reader of a fixed batch gets its last part filled up.
        said = [self._run(part)[: len(part)] for part in parts]
        return torch.cat(said).to(images.device)

    def _run(self, images: Tensor) -> Tensor:
        missing = (self.batch or len(images)) - len(images)
        given = images.detach().float().cpu()
        if missing:
            given = torch.cat([given, given[:1].expand(missing, -1, -1, -1)])
        given = given.permute(0, 2, 3, 1) if self.channels_last else given
        try:
            (logits,) = self._session.run([self._output.name], {self._input.name: given.contiguous().numpy()})
        except Exception as error:
            raise Impossible(f"the ONNX network cannot be run: {_first_line(error)}") from error
        if logits.ndim != 2 or len(logits) != len(given):
            raise Impossible(
                f"the ONNX network gives {_spell(list(logits.shape))} for {len(given)} images; wanted (N, K) logits"
            )
        return torch.from_numpy(logits)

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
        multiply_adds=_multiply_adds(network.model, expects.size),
        classifier_bias=False,
    )


def _multiply_adds(model: Any, size: int) -> int:
    """Multiply-adds of convolutions and matrix products for one image, as far as the file tells its shapes."""
    from onnx import shape_inference

    fixed = deepcopy(model)
    for value in (*fixed.graph.input, *fixed.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes: dict[str, list[int | None]] = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [_dimension(d) for d in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
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
    return total


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
