"""The forms of images and outputs that exporters write: read as docs/models.md says, or refused with what to change."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from retort.engine.interrupt import Impossible
from retort.engine.onnx_network import load_onnx

DOCS = Path(__file__).parents[3] / "docs/models.md"
SIZE, CLASSES = 8, 4
WEIGHT = torch.arange(-6.0, 6.0).view(3, CLASSES) * 2
GREY = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
FLOAT, HALF, DOUBLE, PIXELS, LONG = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.UINT8,
    TensorProto.INT64,
)
Make = Callable[[], onnx.ModelProto]


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def parsed(text: str) -> Iterator[onnx.NodeProto]:
    """Nodes, one a line: `Softmax z y axis=1`."""
    for line in text.splitlines():
        operator, *words = line.split()
        attributes = {name: int(value) for name, value in (word.split("=") for word in words if "=" in word)}
        names = [word for word in words if "=" not in word]
        yield helper.make_node(operator, names[:-1], names[-1:], **attributes)


@dataclass
class Graph:
    """The mean over space of images `x`, times a weight: logits `z`. What is given here replaces a part of it."""

    shape: tuple[int | str | None, ...] = ("N", 3, SIZE, SIZE)
    kind: int = FLOAT
    axes: tuple[int, ...] = (2, 3)
    weight: Tensor = field(default_factory=lambda: WEIGHT)
    tail: tuple[onnx.NodeProto, ...] = ()
    layers: str = "Cast x c to=1"
    outputs: dict[str, int] = field(default_factory=lambda: {"z": FLOAT})
    more: dict[str, Any] = field(default_factory=dict)
    opset: int = 17

    def __call__(self) -> onnx.ModelProto:
        nodes = [
            *parsed(self.layers),
            node("ReduceMean", "c", "m", axes=self.axes, keepdims=0) if len(self.shape) > 2 else node("Relu", "c", "m"),
            node("MatMul", "m w", "z"),
            *self.tail,
        ]
        constants = {"w": self.weight.numpy()} | {name: numpy.asarray(value) for name, value in self.more.items()}
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", self.kind, self.shape)],
            [helper.make_tensor_value_info(name, kind, None) for name, kind in self.outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def ending(tail: str, outputs: str = "y", *, kind: int = FLOAT, **given: Any) -> Graph:
    """Nodes behind `z`, and the outputs."""
    kinds = {name.partition(":")[0]: LONG if name.endswith(":long") else kind for name in outputs.split()}
    return Graph(tail=tuple(parsed(tail)), outputs=kinds, **given)


def zipmap() -> onnx.ModelProto:
    model = ending("Softmax z p axis=1", "p")()
    model.graph.node.append(helper.make_node("ZipMap", ["p"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]))
    model.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    return model


def fused() -> onnx.ModelProto:
    model = ending("Relu z y")()
    model.graph.node[-1].CopyFrom(helper.make_node("Gelu", ["z"], ["y"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def with_input(name: str, kind: int, shape: list[Any]) -> Make:
    def make() -> onnx.ModelProto:
        model = Graph()()
        model.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
        return model

    return make


def external() -> onnx.ModelProto:
    model = Graph()()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="network.onnx.data")
    return model


def of_version(**versions: int) -> Make:
    def make() -> onnx.ModelProto:
        model = Graph()()
        mean, flat = node("GlobalAveragePool", "c", "pool"), node("Flatten", "pool", "m")
        model.graph.node.remove(model.graph.node[1])
        model.graph.node.insert(1, mean)
        model.graph.node.insert(2, flat)
        model.ir_version = versions.get("ir", model.ir_version)
        model.opset_import[0].version = versions.get("opset", 17)
        return model

    return make


def without_outputs() -> onnx.ModelProto:
    model = Graph()()
    del model.graph.output[:]
    return model


def one_by_one() -> onnx.ModelProto:
    """A batch of one is built into a graph whose input is open, as exporters do that trace one image."""
    return ending("Reshape z s y", more={"s": [1, CLASSES]})()


def mean(images: Tensor) -> Tensor:
    return images.mean((2, 3)) @ WEIGHT


def grey(images: Tensor) -> Tensor:
    return (images * GREY).sum(1).mean((1, 2))[:, None] @ WEIGHT[:1]


def two(images: Tensor) -> Tensor:
    second = mean(images)[:, :1]
    return torch.cat([torch.zeros_like(second), second], 1)


def log_two(images: Tensor) -> Tensor:
    return two(images).log_softmax(1)


def log(images: Tensor) -> Tensor:
    return mean(images).log_softmax(1)


ONE = {"weight": WEIGHT[:, :1]}
QUANTISED = "QuantizeLinear p scale zero q\nDequantizeLinear q scale zero y"
BITS = {"scale": numpy.float32(1 / 255), "zero": numpy.uint8(0)}
SPLIT = "Sigmoid z p\nSub one p n\nConcat n p y axis=1"
DECOMPOSED = "Exp z e\nReduceSum e axes t keepdims=1\nDiv e t y"

TAKEN: dict[str, tuple[Make, Callable[[Tensor], Tensor], str | None]] = {
    # the row in the docs: the file, its logits, and the warning
    "`(N, 3, S, S)`, N open or fixed": (Graph(), mean, None),
    "`(N, S, S, 3)` (Keras, tf2onnx)": (Graph(shape=("N", SIZE, SIZE, 3), axes=(1, 2)), mean, None),
    "`(N, 3, height, width)`, sides open": (Graph(shape=("N", 3, "height", "width")), mean, None),
    "all sides open (optimum)": (
        Graph(shape=("batch_size", "num_channels", "height", "width")),
        mean,
        "its input does not say the order of its axes; images are given as (N, 3, S, S)",
    ),
    "`(N, 1, S, S)`, `(N, S, S, 1)`": (Graph(shape=("N", 1, SIZE, SIZE), weight=WEIGHT[:1]), grey, None),
    "one image a batch, by its input or only inside": (one_by_one, mean, "it takes one image at a time"),
    "float16, float64": (Graph(kind=DOUBLE), mean, None),
    "weights among the inputs (IR version 3)": (with_input("w", FLOAT, [3, CLASSES]), mean, None),
    "`Softmax`, `LogSoftmax`": (
        ending("Softmax z y axis=1"), mean, "it ends with Softmax: the tensor before it is read as logits"
    ),
    "`Identity`, `Cast`, `Reshape`, `Flatten`, `Squeeze`, quantisation behind it": (
        ending("Softmax z p axis=1\n" + QUANTISED, more=BITS), mean, "it ends with Softmax"
    ),
    "softmax at a temperature T": (
        ending("Div z t h\nSoftmax h y axis=1", more={"t": numpy.float32(2)}),
        lambda images: mean(images) / 2,
        "it ends with Softmax",
    ),
    "probabilities made in another way": (
        ending(DECOMPOSED, more={"axes": [1]}),
        log,
        "its outputs are probabilities: their logarithms are read as logits",
    ),
    "`Sigmoid` of one output": (
        ending("Sigmoid z y", **ONE), two, "it ends with one Sigmoid, the probability of the second class"
    ),
    "`Sigmoid` of K outputs": (
        ending("Sigmoid z y"), mean, "it ends with Sigmoid for each class: the tensor before it is read as logits"
    ),
    "`(N, K, 1, 1)`, `(N, 1, K)`": (ending("Unsqueeze z s y", more={"s": [2, 3]}), mean, None),
    "logits and probabilities, or and a class number": (
        ending("Softmax z p axis=1\nArgMax z label axis=1", "label:long p z"), mean, "of its outputs 'z' is read"
    ),
    "several outputs, one of them named `logits`": (
        ending("Identity z logits\nRelu m embedding", "embedding logits"), mean, "of its outputs 'logits' is read"
    ),
    "vectors of length 1": (
        ending("LpNormalization z y axis=1 p=2"),
        lambda images: torch.nn.functional.normalize(mean(images)),
        "its outputs have length 1 for every image, as embeddings have",
    ),
}  # fmt: skip

FURTHER: dict[str, tuple[Make, Callable[[Tensor], Tensor], str | None]] = {
    # more of the same kinds
    "a fixed batch": (Graph(shape=(4, 3, SIZE, SIZE)), mean, None),
    "one image a batch": (Graph(shape=(1, 3, SIZE, SIZE)), mean, "it takes one image at a time"),
    "open channels": (Graph(shape=("N", "C", SIZE, SIZE)), mean, "images are given as (N, 3, S, S)"),
    "open, channels last": (Graph(shape=("N", "H", "W", "C"), axes=(1, 2)), mean, "given as (N, S, S, 3)"),
    "open, grey": (Graph(shape=("N", "C", "H", "W"), weight=WEIGHT[:1]), grey, "given as (N, 1, S, S)"),
    "open, grey, channels last": (
        Graph(shape=("N", "H", "W", "C"), axes=(1, 2), weight=WEIGHT[:1]), grey, "given as (N, S, S, 1)"
    ),
    "sides open, channels last": (Graph(shape=("N", "H", "W", 3), axes=(1, 2)), mean, None),
    "grey, channels last": (Graph(shape=("N", SIZE, SIZE, 1), axes=(1, 2), weight=WEIGHT[:1]), grey, None),
    "half": (Graph(kind=HALF), lambda images: mean(images.half().float()), None),
    "half out": (ending("Cast z y to=10", kind=HALF), lambda images: mean(images).half().float(), None),
    "log softmax": (ending("LogSoftmax z y axis=1"), mean, "it ends with LogSoftmax"),
    "softmax, then identity": (ending("Softmax z p\nIdentity p q\nCast q y to=11", kind=DOUBLE), mean, "Softmax"),
    "softmax, then reshape": (ending("Softmax z p\nReshape p s y", more={"s": [-1, CLASSES]}), mean, "Softmax"),
    "softmax over (N, K, 1, 1)": (
        ending("Unsqueeze z s u\nSoftmax u p axis=1\nFlatten p y axis=1", more={"s": [2, 3]}), mean, "Softmax"
    ),
    "softmax, twice named": (ending("Softmax z p\nIdentity p y", "p y"), mean, "Softmax"),
    "softmax over groups is no softmax of classes": (
        ending("Reshape z s u\nSoftmax u p axis=2\nReshape p t y", more={"s": [-1, 2, 2], "t": [-1, CLASSES]}),
        lambda images: mean(images).view(-1, 2, 2).softmax(2).flatten(1),
        None,
    ),
    "sigmoid of (N)": (ending("Sigmoid z p\nSqueeze p s y", more={"s": [1]}, **ONE), two, "one Sigmoid"),
    "sigmoid and its rest": (ending(SPLIT, more={"one": numpy.float32(1)}, **ONE), log_two, "are probabilities"),
    "label and probabilities": (ending("Softmax z p axis=1\nArgMax p label axis=1", "label:long p"), mean, "Softmax"),
    "(N, 1, K)": (ending("Unsqueeze z s y", more={"s": [1]}), mean, None),
    "named output_0": (ending("Identity z output_0", "output_0"), mean, None),
}  # fmt: skip

REFUSED: dict[str, tuple[Make, str]] = {
    # the row in the docs: the file, and the end of the sentence
    "sides that differ": (Graph(shape=("N", 3, 8, 9)), "external_data=False)"),
    "no batch, or a flat vector": (Graph(shape=("N", 3)), "external_data=False)"),
    "int8, int32, bfloat16 images": (Graph(kind=TensorProto.INT32), "export network.float()"),
    "several inputs": (with_input("mask", FLOAT, ["N"]), "export a network whose forward takes images alone"),
    "the number of the class (argmax)": (
        ending("ArgMax z y axis=1", "y:long"), "export a network whose forward returns the logits, without argmax"
    ),
    "several outputs, none of them named `logits`": (
        ending("Relu m embedding", "z embedding"), "or name them: output_names=['logits', ...]"
    ),
    "one output that is no sigmoid": (
        ending("Relu z y", **ONE), "end it with Sigmoid where it is the logit of the second of two classes"
    ),
    "weights in a file beside it": (external, "torch.onnx.export(..., external_data=False)"),
    "operators of onnxruntime's optimizer": (fused, "export it without onnxruntime's optimisation"),
    "scikit-learn's operators, `ZipMap` too": (zipmap, "export a network of them"),
    "operators or a format of later versions": (of_version(opset=99), "export it with opset_version=18"),
    "outputs that depend on the other images of a batch": (
        ending("Softmax z y axis=0"), "export it after network.eval(), without softmax over the batch"
    ),
}  # fmt: skip

FURTHER_REFUSED: dict[str, tuple[Make, str]] = {
    "too large": (Graph(shape=("N", 3, 10**5, 10**5)), "100,000 pixels a side; at most 1,024 are read"),
    "too many": (Graph(shape=(10**9, 3, SIZE, SIZE)), "bytes for a batch of 1,000,000,000; at most"),
    "four channels": (Graph(shape=("N", 4, 8, 8), weight=torch.ones(4, CLASSES)), "(any, 4, 8, 8); wanted (N, 3, S"),
    "no batch": (Graph(shape=(3, 8, 8), axes=(1, 2)), "the shape (3, 8, 8); wanted"),
    "bfloat16": (Graph(kind=TensorProto.BFLOAT16), "is BFLOAT16; wanted a tensor of float32"),
    "int8": (Graph(kind=TensorProto.INT8), "is INT8"),
    "no inputs": (lambda: onnx.ModelProto(), "is not valid"),
    "IR version": (of_version(ir=99), "export it with opset_version=18"),
    "a map of features": (ending("Expand z s y", more={"s": [1, 5, 1, 1]}), "gives (1, 5, 3, 4) for a"),
    "features of places": (
        ending("Unsqueeze z s u\nExpand u t y", more={"s": [2], "t": [1, CLASSES, 7]}), "gives (3, 4, 7) for"
    ),
    "a batch of two inside": (
        ending("Reshape z s y", more={"s": [2, CLASSES]}), "where its batch is fixed inside, export it with dyn"
    ),
    "one hot": (
        ending("ArgMax z a axis=1 keepdims=0\nOneHot a k v y", more={"k": [CLASSES], "v": numpy.float32([0, 1])}),
        "export it without argmax",
    ),
    "float64 convolutions": (
        Graph(kind=DOUBLE, layers="Conv x k d\nCast d c to=1", more={"k": numpy.ones((3, 3, 1, 1))}),
        "export network.float(), with opset_version=18",
    ),
    "images that weigh each other": (
        ending("Softmax z p axis=0\nMul p z y"), "wanted outputs of each image by itself: export it after"
    ),
    "no output": (without_outputs, "the ONNX file has no output; wanted a tensor of floats"),
    "softmax of one": (ending("Softmax z y axis=1", **ONE), "gives one number an image"),
    "two classifiers": (ending("Relu z aux", "z aux"), "2 outputs of floats ('z', 'aux')"),
    "runs in no form": (
        Graph(shape=("N", "C", "H", "W"), weight=torch.ones(5, CLASSES)), "export it with the shape of its images"
    ),
}  # fmt: skip


def stored(model: onnx.ModelProto, folder: Path) -> Path:
    file = folder / "network.onnx"
    file.write_bytes(model.SerializeToString())
    return file


@pytest.mark.parametrize("named", [TAKEN, FURTHER])
def test_forms_that_exporters_write_are_read(named: dict[str, Any], tmp_path: Path) -> None:
    images = torch.rand(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    digests = set()
    for name, (make, wanted, warning) in named.items():
        try:
            network = load_onnx(stored(make(), tmp_path), SIZE)
        except Impossible as refusal:
            pytest.fail(f"{name}: {refusal}")
        torch.testing.assert_close(
            network.run(images), wanted(images), rtol=1e-3, atol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
        digests.add(network.digest)
        assert (warning is None) == (not network.warnings), (name, network.warnings)
        assert (warning or "") in " ".join(network.warnings), (name, network.warnings)
    # The teacher cache tells networks apart by it.
    assert len(digests) == len(named)


@pytest.mark.parametrize("named", [REFUSED, FURTHER_REFUSED])
def test_other_forms_are_refused_with_what_to_change(named: dict[str, Any], tmp_path: Path) -> None:
    for name, (make, says) in named.items():
        with pytest.raises(Impossible) as refusal:
            load_onnx(stored(make(), tmp_path), SIZE)
        assert says in str(refusal.value), name
        assert "\n" not in str(refusal.value)
        assert len(str(refusal.value)) < 500


def test_pixels_are_given_as_whole_numbers(tmp_path: Path) -> None:
    network = load_onnx(stored(Graph(kind=PIXELS)(), tmp_path))
    pixels = torch.tensor([-3.0, 0.4, 0.6, 254.6, 300.0]).view(5, 1, 1, 1).expand(5, 3, SIZE, SIZE)
    assert network.reads_pixels
    torch.testing.assert_close(network.run(pixels), mean(pixels.round().clamp(0, 255)), rtol=1e-5, atol=1e-2)


def test_an_open_size_must_be_known(tmp_path: Path) -> None:
    file = stored(Graph(shape=("N", 3, "S", "S"))(), tmp_path)
    with pytest.raises(Impossible, match=re.escape("give expects.size")):
        load_onnx(file)


def test_the_docs_show_each_form() -> None:
    rows = [line.strip("|").split(" | ") for line in DOCS.read_text().splitlines() if line.startswith("|")]
    first = {cells[0].strip() for cells in rows}
    assert first >= TAKEN.keys()
    refused = {cells[0].strip(): cells[1].strip() for cells in rows if cells[0].strip() in REFUSED}
    assert refused == {name: f"`{says}`" for name, (_, says) in REFUSED.items()}
