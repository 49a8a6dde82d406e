"""ONNX files as networks, run unchanged by onnxruntime on the CPU."""

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
from retort.engine.onnx_graph import LOADING_SECONDS, SLOW_TO_LOAD, first_line, parse_onnx, spell
from retort.engine.onnx_shapes import Shape, dimension, multiply_adds, peak_bytes, shapes_for
from retort.engine.watchdog import ends_within
from retort.user_model import ONNX, Expects, UserModel, expects_in, parsed_expects

TRIED_SIZE = 224
"""Side in pixels of the image for a trial run of a network that reads any size, before its record gives one."""
SECONDS_PER_IMAGE, SECONDS_PER_BATCH = 60.0, 600.0
"""Longest run for each image of a batch, and for all of it; it stops networks that loop without end."""
MOST_AT_ONCE = 64
"""Most images in one run: on a CPU more are no quicker, and each run has its bound of time."""
UNINTERRUPTED_SECONDS = 3.0
"""Seconds that an operator may go on beyond that bound: onnxruntime stops a run between two of them."""
NO_MEMORY = ("Available memory of", "Failed to allocate memory", "bad_alloc", "bad allocation")
"""Parts of onnxruntime's errors where it gets no memory."""


def load_onnx(file: Path) -> OnnxNetwork:
    """The network of an ONNX file, ready to run. Raises Impossible, in one sentence, for everything unwanted."""
    return OnnxNetwork(parse_onnx(file), file)


def metadata_of(network: OnnxNetwork) -> dict[str, str]:
    """The file's own metadata, texts by key."""
    return {entry.key: entry.value for entry in network.model.metadata_props}


class OnnxNetwork:
    """A checked ONNX network in onnxruntime: (N, 3, S, S) images in, (N, K) logits out. Copies share the session."""

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
        """Images in each of its batches; None is any number."""
        sides = shape[1:3] if self.channels_last else shape[2:]
        if shape[3 if self.channels_last else 1] != 3 or (None not in sides and sides[0] != sides[1]):
            raise Impossible(
                f"the ONNX file's input {self._input.name!r} has the shape {spell(shape)}; wanted (N, 3, S, S) or "
                "(N, S, S, 3)"
            )
        self.size = sides[0] or sides[1]
        """Side of its images, in pixels; None is any."""
        self.at_once = self.batch or self._images_that_fit()
        """Most images in one run."""
        try:
            # From bytes, so that no file beside it can be named; constants are computed in the run, where memory and
            # time are bounded.
            with ends_within(LOADING_SECONDS, SLOW_TO_LOAD):
                self._session = onnxruntime.InferenceSession(
                    file.read_bytes(),
                    options,
                    providers=["CPUExecutionProvider"],
                    disabled_optimizers=["ConstantFolding"],
                )
        except Exception as error:  # onnxruntime's own errors have no base of their own
            raise Impossible(f"onnxruntime cannot load the ONNX file: {first_line(error)}") from error

    def shapes(self, size: int) -> dict[str, Shape]:
        """Shape and item size of each tensor of the outermost graph, by name, as far as they can be inferred.

        They hold for one image of `size` pixels a side, or for a fixed batch of them.
        """
        sides = (size, size, 3) if self.channels_last else (3, size, size)
        return shapes_for(self.model, self._input.name, (self.batch or 1, *sides))

    def _images_that_fit(self) -> int:
        """Most images that a run may hold. Raises Impossible where not even one fits."""
        budget = memory_budget()
        needed = peak_bytes(self.model.graph, self.shapes(self.size or TRIED_SIZE))
        if needed > budget:
            raise Impossible(f"the ONNX network takes {needed:,} bytes for one image; at most {budget:,} are available")
        return min(MOST_AT_ONCE, max(1, budget // (2 * max(1, needed))))

    def run(self, images: Tensor) -> Tensor:
        """(N, K) float32 logits of (N, 3, S, S), on the images' device. Raises Impossible where it cannot be run."""
        # A network with a fixed batch gets its last batch filled up.
        logits = [self._run(batch)[: len(batch)] for batch in torch.split(images, self.at_once)]
        return torch.cat(logits).to(images.device)

    def _run(self, images: Tensor) -> Tensor:
        missing = (self.batch or len(images)) - len(images)
        batch = images.detach().float().cpu()
        if missing:
            batch = torch.cat([batch, batch[:1].expand(missing, -1, -1, -1)])
        batch = batch.permute(0, 2, 3, 1) if self.channels_last else batch
        logits = self._infer(batch)
        if logits.ndim != 2 or len(logits) != len(batch):
            raise Impossible(
                f"the ONNX network gives {spell(list(logits.shape))} for {len(batch)} images; wanted (N, K) logits"
            )
        return torch.from_numpy(logits)

    def _infer(self, batch: Tensor) -> Any:
        from onnxruntime import RunOptions

        options = RunOptions()
        seconds = min(SECONDS_PER_IMAGE * len(batch), SECONDS_PER_BATCH)
        too_slow = f"the ONNX network has no output for a batch of {len(batch)} after {seconds:g} s"
        timer = Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            with ends_within(seconds + UNINTERRUPTED_SECONDS, too_slow):
                (logits,) = self._session.run(
                    [self._output.name], {self._input.name: batch.contiguous().numpy()}, options
                )
        except Exception as error:
            if "terminate flag" in str(error):
                raise Impossible(too_slow) from error
            if any(words in str(error) for words in NO_MEMORY):
                raise Impossible(
                    f"the ONNX network takes more memory for a batch of {len(batch)} than the {memory_budget():,} "
                    "bytes that are available"
                ) from error
            raise Impossible(f"the ONNX network cannot be run: {first_line(error)}") from error
        finally:
            timer.cancel()
        return logits

    def _only_input(self) -> Any:
        graph = self.model.graph
        constants = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in constants]
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
    """An ONNX network in the place of a body; its only module of torch puts the logits into an order."""

    fingerprint: Tensor

    def __init__(self, network: OnnxNetwork) -> None:
        super().__init__()
        self.network = network
        digest = sha256(network.model.SerializeToString(deterministic=True)).digest()
        # Networks are compared by their tensors.
        self.register_buffer("fingerprint", torch.tensor(list(digest), dtype=torch.uint8))
        self.classifier = OutputOrder(_outputs(network))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.network.run(images))
        return logits


class OutputOrder(nn.Module):
    """A permutation of the K columns of (N, K) logits."""

    order: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.arange(outputs))

    def forward(self, logits_NK: Tensor) -> Tensor:
        return logits_NK[:, self.order]


def _outputs(network: OnnxNetwork) -> int:
    size = network.size or TRIED_SIZE
    return network.run(torch.zeros(network.batch or 1, 3, size, size)).shape[1]


def onnx_card(network: OnnxNetwork, expects: Expects) -> Card:
    """The card of an ONNX network: its counts, and nothing to read but logits."""
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
    """The record, completed from the file's metadata where the user left fields empty.

    Raises Impossible where neither gives an expectation, or where the file contradicts the record.
    """
    metadata = metadata_of(network)
    stated = expects_in(metadata)
    expects = record.expects
    if expects is None:
        from_file = dict(stated.get("expects", {}))
        if "retort" in metadata:
            # Retort's exports normalise images in [0, 1] themselves.
            from_file |= {"channel_order": "rgb", "mean": [0.0] * 3, "std": [1.0] * 3}
        if network.size is not None:
            from_file["size"] = network.size
        expects, wrong = parsed_expects(from_file)
        if expects is None:
            raise Impossible(f"the ONNX file does not describe the images that it expects; give expects.{wrong[0]}")
    if network.size is not None and expects.size != network.size:
        raise Impossible(f"the ONNX file takes images of {network.size} pixels a side; expects says {expects.size}")
    names = record.class_names or tuple(map(str, stated.get("class_names", ()))) or None
    found = network.run(torch.rand(network.batch or 1, 3, expects.size, expects.size)).shape[1]
    for source, count in (("its record", record.outputs), ("its class names", names and len(names))):
        if count is not None and count != found:
            raise Impossible(f"the ONNX network gives {found} outputs; wanted {count} by {source}")
    return record.completed(outputs=found, class_names=names, expects=expects, card=onnx_card(network, expects))


@cache
def _bound_memory() -> None:
    """Give all sessions of this process one allocator for their tensors, bounded by the memory budget."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    cpu = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    limits = {"max_mem": memory_budget(), "arena_extend_strategy": 1}
    onnxruntime.create_and_register_allocator(cpu, onnxruntime.OrtArenaCfg(limits))
