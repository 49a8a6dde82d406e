"""ONNX graphs in onnxruntime, run unchanged on the CPU: images in, logits out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from hashlib import sha256
from math import prod
from pathlib import Path
from threading import Timer
from typing import Any

import numpy
import torch
from torch import Tensor

from retort.datasets._pictures import memory_budget
from retort.engine.interrupt import Impossible
from retort.engine.onnx_ends import ImageForm, LogitEnd, image_end, logit_end
from retort.engine.onnx_graph import (
    AS_FLOATS,
    LOADING_SECONDS,
    SLOW_TO_LOAD,
    first_line,
    parse_onnx,
    spell,
    too_new,
)
from retort.engine.onnx_shapes import Shape, peak_bytes, shapes_for
from retort.engine.watchdog import ends_within
from retort.user_model import GREY_SHARES, LARGEST_SIDE, expects_in

SECONDS_PER_IMAGE, SECONDS_PER_BATCH = 60.0, 600.0
"""Longest run for each image of a batch, and for all of it; it stops networks that loop without end. The first run of
all has the time of one image, whatever its batch."""
MOST_AT_ONCE = 64
"""Most images in one run: on a CPU more are no quicker, and each run has its bound of time."""
UNINTERRUPTED_SECONDS = 3.0
"""Seconds that an operator may go on beyond that bound: onnxruntime stops a run between two of them."""
NO_MEMORY = ("Available memory of", "Failed to allocate memory", "bad_alloc", "bad allocation")
"""Parts of onnxruntime's errors where it gets no memory."""
TOO_NEW = ("ONNX Runtime only *guarantees* support", "Unsupported model IR version")
"""Parts of onnxruntime's errors about files of later versions."""
TRIED_IMAGES = 3
"""Images of a trial run: networks are exported with a batch of one or two, which may be fixed inside."""
MADE_OF_LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "Softmax": lambda logits_NK: logits_NK.softmax(1),
    "LogSoftmax": lambda logits_NK: logits_NK.log_softmax(1),
    "Sigmoid": Tensor.sigmoid,
}
"""The operators of onnx_ends.LAST."""
CLOSE = 1 / 128
"""Difference of numbers that are the same, where they may have been rounded to 8 bits."""
MIXED = 0.1
"""Share of the logits' range by which those of an image may depend on its batch: quantisation has one scale for all."""
DYNAMIC = "dynamic_shapes=({0: torch.export.Dim('N')},)"


class TooMuch(Impossible):
    """A run takes more memory or time than it may."""


class Mixed(Impossible):
    """The outputs of an image depend on the others of its batch."""


def load_onnx(file: Path, size: int | None = None) -> OnnxNetwork:
    """The network of an ONNX file, ready to run, on images of `size` pixels a side where it reads any.

    Raises Impossible, in one sentence, for everything unwanted.
    """
    return OnnxNetwork(parse_onnx(file), file, size)


class OnnxNetwork:
    """A checked ONNX network in onnxruntime: (N, 3, S, S) images in, (N, K) logits out. Copies share the session."""

    form: ImageForm
    """The form of the images that the graph gets."""
    batch: int | None
    """Images in each of its batches; None is any number."""
    at_once: int
    """Most images in one run."""
    outputs: int
    """K, the number of logits."""

    def __init__(self, model: Any, file: Path, size: int | None = None) -> None:
        from onnx import helper

        self.model = model
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.warnings: list[str] = []
        """Sentences about what is odd."""
        self._input = image_end(model.graph)
        self._dtype = helper.tensor_dtype_to_np_dtype(self._input.kind)
        self._declared = self._output = logit_end(model.graph)
        self._takes_logarithm = False
        self.size = self._input.size
        """Side of its images, in pixels; None is any."""
        tried = self.size or size or expects_in(self.metadata).get("expects", {}).get("size")
        if not isinstance(tried, int):
            raise Impossible("the ONNX file does not describe the images that it expects; give expects.size")
        if not 1 <= tried <= LARGEST_SIDE:
            raise Impossible(
                f"the ONNX file takes images of {tried:,} pixels a side; at most {LARGEST_SIDE:,} are read"
            )
        self._session = _session(model, file, self._output.before)
        self._settle(tried)

    @property
    def reads_pixels(self) -> bool:
        """Whether the graph takes whole numbers, those of pixels: 0 to 255."""
        return bool(self._dtype == numpy.uint8)

    @property
    def digest(self) -> bytes:
        """sha256 of the graph and of the way in which it is read."""
        made = sha256(self.model.SerializeToString(deterministic=True))
        made.update(repr((self.form, self._output, self._takes_logarithm)).encode())
        return made.digest()

    def shapes(self, size: int) -> dict[str, Shape]:
        """Shape and item size of each tensor of the outermost graph, by name, as far as they can be inferred.

        They hold for one image of `size` pixels a side, or for a fixed batch of them.
        """
        return shapes_for(self.model, self._input.name, self._input.kind, self.form.shape(self.batch or 1, size))

    def run(self, images: Tensor) -> Tensor:
        """(N, K) float32 logits of (N, 3, S, S), on the images' device. Raises Impossible where it cannot be run."""
        # A network with a fixed batch gets its last batch filled up.
        logits = [self._run(batch)[: len(batch)] for batch in torch.split(images, self.at_once)]
        return torch.cat(logits).to(images.device)

    def _settle(self, size: int) -> None:
        """Find by runs on noise the form of its images and the way to read its output. Raises Impossible."""
        forms, failures = self._input.forms, []
        for form in forms:
            for batch in [self._input.batch] if self._input.batch else [None, 1]:
                self.form, self.batch = form, batch
                try:
                    self._try(size)
                except (TooMuch, Mixed):
                    raise
                except Impossible as error:
                    failures.append(error)
                    continue
                return
        if len(forms) == 1:
            raise failures[0]
        raise Impossible(
            f"{failures[0]} (as {forms[0]}, nor does it run as {' or '.join(map(str, forms[1:]))}, of {size} pixels a "
            "side); export it with the shape of its images"
        )

    def _try(self, size: int) -> None:
        """Run it on noise in the present form, and find the way in which its output is read. Raises Impossible."""
        self.at_once = self._images_that_fit(size)
        count = self.batch or min(TRIED_IMAGES, self.at_once)
        images = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
        images = images * 255 if self.reads_pixels else images
        names = [self._declared.name, *filter(None, [self._declared.before])]
        given, *before = self._infer(self._batch(images), names, SECONDS_PER_IMAGE)
        reading = _reading(self._declared, _rows(given, len(images)), before[0] if before else None)
        self._output, self._takes_logarithm, warning = reading
        logits = self._run(images)
        self.outputs = logits.shape[1]
        if self.batch is None and count > 1:
            _check_alone(self._run(images[:1]), logits[:1], count)
        self.warnings = [warning] if warning else []
        if len(self._input.forms) > 1:
            self.warnings.append(f"its input does not say the order of its axes; images are given as {self.form}")
        if self.batch == 1:
            self.warnings.append(f"it takes one image at a time, which is slow; wanted an export with {DYNAMIC}")

    def _images_that_fit(self, size: int) -> int:
        """Most images that a run may hold; those of a fixed batch. Raises TooMuch where not even these fit."""
        budget = memory_budget()
        images = torch.float32.itemsize * prod(self.form.shape(self.batch or 1, size))
        needed = max(images, peak_bytes(self.model.graph, self.shapes(size)))
        if needed > budget:
            count = f"a batch of {self.batch:,}" if self.batch else "one image"
            raise TooMuch(f"the ONNX network takes {needed:,} bytes for {count}; at most {budget:,} are available")
        return self.batch or min(MOST_AT_ONCE, max(1, budget // (2 * needed)))

    def _run(self, images: Tensor) -> Tensor:
        missing = (self.batch or len(images)) - len(images)
        if missing:
            images = torch.cat([images, images[:1].expand(missing, -1, -1, -1)])
        (found,) = self._infer(self._batch(images), [self._output.before or self._output.name])
        # The tensor before an output has as many numbers, perhaps on more axes.
        logits = _rows(numpy.reshape(found, (len(images), -1)) if self._output.before else found, len(images))
        if self._takes_logarithm:
            return logits.clamp(min=torch.finfo(torch.float32).tiny).log()
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if logits.shape[1] == 1 else logits

    def _batch(self, images: Tensor) -> Any:
        """(N, 3, S, S) as the graph takes them."""
        batch = images.detach().float().cpu()
        if self.form.channels == 1:
            batch = (batch * torch.tensor(GREY_SHARES).view(1, 3, 1, 1)).sum(1, keepdim=True)
        batch = batch.permute(0, 2, 3, 1) if self.form.channels_last else batch
        batch = batch.round().clamp(0, 255) if self.reads_pixels else batch
        return batch.contiguous().numpy().astype(self._dtype, copy=False)

    def _infer(self, batch: Any, names: list[str], most_seconds: float | None = None) -> list[Any]:
        from onnxruntime import RunOptions

        options = RunOptions()
        seconds = min(SECONDS_PER_IMAGE * len(batch), most_seconds or SECONDS_PER_BATCH)
        too_slow = f"the ONNX network has no output for a batch of {len(batch)} after {seconds:g} s"
        timer = Timer(seconds, setattr, (options, "terminate", True))
        timer.daemon = True
        timer.start()
        try:
            with ends_within(seconds + UNINTERRUPTED_SECONDS, too_slow):
                found: list[Any] = self._session.run(names, {self._input.name: batch}, options)
        except Exception as error:
            if "terminate flag" in str(error):
                raise TooMuch(too_slow) from error
            if any(words in str(error) for words in NO_MEMORY):
                raise TooMuch(
                    f"the ONNX network takes more memory for a batch of {len(batch)} than the {memory_budget():,} "
                    "bytes that are available"
                ) from error
            advice = "" if self.batch else f"; where its batch is fixed inside, export it with {DYNAMIC}"
            raise Impossible(
                f"the ONNX network cannot be run on a batch of {len(batch)}: {first_line(error)}{advice}"
            ) from error
        finally:
            timer.cancel()
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        return self


def _session(model: Any, file: Path, further: str | None) -> Any:
    """onnxruntime's session of a model, with a further tensor as its output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    _bound_memory()
    options.add_session_config_entry("session.use_env_allocators", "1")
    content = file.read_bytes() if further is None else _with_output(model, further)
    try:
        # From bytes, so that no file beside it can be named; constants are computed in the run, where memory and time
        # are bounded.
        with ends_within(LOADING_SECONDS, SLOW_TO_LOAD):
            return onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
            )
    except Exception as error:  # onnxruntime's own errors have no base of their own
        if any(words in str(error) for words in TOO_NEW):
            raise Impossible(too_new(model)) from error
        advice = f"; {AS_FLOATS}" if "NOT_IMPLEMENTED" in str(error) else ""
        raise Impossible(f"onnxruntime cannot load the ONNX file: {first_line(error)}{advice}") from error


def _with_output(model: Any, name: str) -> bytes:
    """The model's bytes with one output more; its type is inferred."""
    from onnx import ValueInfoProto

    if any(value.name == name for value in model.graph.output):
        return bytes(model.SerializeToString())
    model.graph.output.append(ValueInfoProto(name=name))
    content = bytes(model.SerializeToString())
    del model.graph.output[-1]
    return content


def _rows(found: Any, count: int) -> Tensor:
    """(N, K) float32 of an output for N images, of whose further axes one at most is longer than 1.

    Raises Impossible for other shapes.
    """
    shape = list(numpy.shape(found))
    if not shape or shape[0] != count or sum(side != 1 for side in shape[1:]) > 1:
        advice = f": export it with {DYNAMIC}" if shape[:1] != [count] else ""
        raise Impossible(f"the ONNX network gives {spell(shape)} for a batch of {count}; wanted (N, K) logits{advice}")
    return torch.from_numpy(numpy.asarray(found, numpy.float32).reshape(count, -1))


def _reading(end: LogitEnd, given: Tensor, before: Any) -> tuple[LogitEnd, bool, str | None]:
    """The way to read an output as logits: the tensor, whether its logarithm is taken, and a sentence where that is
    odd. Raises Impossible where it cannot be read.

    `given` is the (N, K) output for noise, `before` the tensor before its last operator, of any shape.
    """
    if before is not None and before.size == given.numel() and (end.last == "Sigmoid" or given.shape[1] > 1):
        logits = torch.from_numpy(numpy.asarray(before, numpy.float32)).view_as(given)
        if torch.allclose(MADE_OF_LOGITS[end.last](logits), given, rtol=CLOSE, atol=CLOSE):
            return end, False, _before_sentence(end.last, given.shape[1])
    plain = replace(end, before=None, last="")
    if given.shape[1] == 1:
        raise Impossible(
            "the ONNX network gives one number an image; wanted a logit for each class: export two, or end it with "
            "Sigmoid where it is the logit of the second of two classes"
        )
    if bool(((given == 0) | (given == 1)).all()):
        raise Impossible("the ONNX network gives nothing but 0 and 1; wanted logits: export it without argmax")
    if bool((given >= 0).all()) and bool(((given.double().sum(1) - 1).abs() < CLOSE).all()):
        return plain, True, "its outputs are probabilities: their logarithms are read as logits"
    if bool(((given.double().norm(dim=1) - 1).abs() < 1e-3).all()):
        return plain, False, "its outputs have length 1 for every image, as embeddings have; wanted logits of classes"
    return plain, False, f"of its outputs {end.name!r} is read" if end.others else None


def _check_alone(alone: Tensor, within: Tensor, count: int) -> None:
    """Raise Mixed where the logits of an image depend on the others of its batch, as with softmax over the batch, or
    batch normalisation that was exported in training mode."""
    found = float((alone - within).abs().max())
    if found > MIXED * float(alone.max() - alone.min() + within.max() - within.min()):
        raise Mixed(
            f"the ONNX network gives an image other outputs in a batch of {count} than alone (by up to {found:.3g}); "
            "wanted outputs of each image by itself: export it after network.eval(), without softmax over the batch"
        )


def _before_sentence(last: str, outputs: int) -> str:
    if outputs == 1:
        return "it ends with one Sigmoid, the probability of the second class: the logits 0 and that before it are read"
    each = " for each class" if last == "Sigmoid" else ""
    return f"it ends with {last}{each}: the tensor before it is read as logits"


@cache
def _bound_memory() -> None:
    """Give all sessions of this process one allocator for their tensors, bounded by the memory budget."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    cpu = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    limits = {"max_mem": memory_budget(), "arena_extend_strategy": 1}
    onnxruntime.create_and_register_allocator(cpu, onnxruntime.OrtArenaCfg(limits))
