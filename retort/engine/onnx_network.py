"""A network that came as an ONNX file, run as it is by onnxruntime, on the CPU."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from math import prod
from pathlib import Path
from threading import Timer
from typing import Any

import torch
from torch import Tensor, nn

from retort.architecture import Card
from retort.datasets._pictures import memory_budget
from retort.engine.interrupt import Impossible
from retort.engine.onnx_graph import first_line, parse_onnx, spell
from retort.engine.onnx_shapes import Shape, dimension, multiply_adds, peak_bytes, shapes_for
from retort.user_model import ONNX, Expects, UserModel, expects_in, parsed_expects

TRIED_SIZE = 224
"""Side of the image with which a network is tried that reads any, and of which nobody has said what it expects."""
SECONDS_PER_IMAGE = 60.0
"""How long a network may think about each image of a batch: one that loops without end is told so."""
NO_MEMORY = ("Available memory of", "Failed to allocate memory", "bad_alloc", "bad allocation")
"""What onnxruntime says where it gets none."""


def load_onnx(file: Path) -> OnnxNetwork:
    """The network of an ONNX file, ready to run. Raises Impossible, in one sentence, for all that is not wanted."""
    return OnnxNetwork(parse_onnx(file), file)


def metadata_of(network: OnnxNetwork) -> dict[str, str]:
    """What the file says of itself."""
    return {entry.key: entry.value for entry in network.model.metadata_props}


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
        shape = [dimension(d) for d in self._input.type.tensor_type.shape.dim]
        self.channels_last = shape[1] != 3 and shape[3] == 3
        self.batch = shape[0]
        """Images that it takes at once; None is any number."""
        sides = shape[1:3] if self.channels_last else shape[2:]
        if shape[3 if self.channels_last else 1] != 3 or (None not in sides and sides[0] != sides[1]):
            raise Impossible(
                f"the ONNX file's input {self._input.name!r} has the shape {spell(shape)}; wanted (N, 3, S, S) or "
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
            raise Impossible(f"onnxruntime cannot load the ONNX file: {first_line(error)}") from error

    def shapes(self, size: int) -> dict[str, Shape]:
        """Shape of each tensor of the outermost graph by name, and bytes of one of its numbers, for one image of that
        side, or a fixed batch of them; as far as it can be told."""
        sides = (size, size, 3) if self.channels_last else (3, size, size)
        return shapes_for(self.model, self._input.name, (self.batch or 1, *sides))

    def _images_that_fit(self) -> int:
        """Raises Impossible where not even one does."""
        budget = memory_budget()
        needed = peak_bytes(self.model.graph, self.shapes(self.size or TRIED_SIZE))
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
                f"the ONNX network gives {spell(list(logits.shape))} for {len(given)} images; wanted (N, K) logits"
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
            raise Impossible(f"the ONNX network cannot be run: {first_line(error)}") from error
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
            found = spell([dimension(d) for d in inputs[0].type.tensor_type.shape.dim])
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
        multiply_adds=multiply_adds(network.model.graph, network.shapes(expects.size)) // (network.batch or 1),
        classifier_bias=False,
    )


def completed(record: UserModel, network: OnnxNetwork) -> UserModel:
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


@cache
def _bound_memory() -> None:
    """Have all tensors of this process's sessions come from one allocator, which gives no more than is allowed."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    cpu = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    limits = {"max_mem": memory_budget(), "arena_extend_strategy": 1}
    onnxruntime.create_and_register_allocator(cpu, onnxruntime.OrtArenaCfg(limits))
