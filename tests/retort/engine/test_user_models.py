"""User models: loaded, refused, checked and used as teachers by the real engine."""

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from retort.architectures import ARCHITECTURES, CARDS
from retort.dataset import ImageClassFacts
from retort.engine import onnx_graph, onnx_network
from retort.engine.__main__ import carry_out
from retort.engine.event_log import EventLog
from retort.engine.interrupt import FINISHED, IMPOSSIBLE, Impossible, Interrupt
from retort.engine.onnx_network import load_onnx
from retort.engine.user_weights import user_network
from retort.kinds import CHECK, DISTILL
from retort.method import Setup
from retort.methods import METHODS
from retort.order import Order, Paths
from retort.tasks import TASKS
from retort.user_model import UserModel
from retort.validation import check_methods
from tests.retort.engine.runs import TRAINING

DIGITS = {"name": "digits"}
ID = "model_1"


class Bench:
    """A folder where jobs of the engine run, and a trained network as a user model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weights = folder / "weights"
        self.count = 0
        recipe = {
            "dataset": DIGITS,
            "student": {"architecture": "resnet8"},
            "training": TRAINING | {"epochs": 4},
            "exports": [{"name": "safetensors"}, {"name": "onnx"}],
        }
        assert self.run(DISTILL, recipe) == FINISHED
        made = self.last / "artifacts"
        self.tensors = load_file(made / "student.safetensors")
        self.onnx = made / "student.onnx"
        self.description: dict[str, Any] = json.loads((made / "student.json").read_text())

    def run(self, kind: str, spec: dict[str, Any]) -> int:
        self.count += 1
        self.last = self.folder / f"run{self.count}"
        self.last.mkdir()
        paths = Paths(
            directory=self.last, checkpoints=self.last / "checkpoints", weights=self.weights, checkpoint_seconds=1e9
        )
        with (self.last / "log").open("wb") as log:
            return carry_out(Order(kind=kind, spec=spec, paths=paths), EventLog(log.fileno()), Interrupt())

    def store(self, tensors: dict[str, torch.Tensor] | None = None, file: Path | None = None, **record: Any) -> None:
        """Write a user model to the folder where a worker fetches it to."""
        image = self.description["input"]
        known = {
            "classes": 10,
            "class_names": self.description["class_names"],
            "expects": {"range": [0, 1], "size": image["size"], **image["normalises_inside"]},
        }
        form = "onnx" if tensors is None else "safetensors"
        stored = {"id": ID, "form": form, "architecture": "onnx" if tensors is None else "resnet8"}
        stored |= dict.fromkeys(known) if tensors is None else known
        folder = self.weights / ID
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.json").write_text(json.dumps(stored | record))
        if tensors is None:
            assert file is not None
            (folder / "model.onnx").write_bytes(file.read_bytes())
        else:
            save_file(tensors, folder / "model.safetensors")

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.last / "artifacts/report.json").read_text())
        return found

    def texts(self, kind: str) -> list[str]:
        lines = map(json.loads, (self.last / "log").read_text().splitlines())
        return [line["text"] for line in lines if line.get("kind") == kind]

    def refusal(self) -> str:
        (sentence,) = self.texts("failed")
        return sentence


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


# Weights


def test_a_network_with_prefixes_is_taken_in_and_as_good_as_before(bench: Bench) -> None:
    bench.store({f"module.model.{name}": tensor for name, tensor in bench.tensors.items()})
    assert bench.run(CHECK, {"model": ID, "dataset": DIGITS}) == FINISHED
    report = bench.report()
    validation = bench.report()["accuracy"]
    assert validation > 0.8
    assert report["sentences"] == []
    assert report["parameters"] == CARDS["resnet8"].parameters(10)
    assert [layer["shape"][0] for layer in report["layers"]] == [one.channels for one in CARDS["resnet8"].stages]
    assert report["permuted"]["order"] == list(range(10))


def test_what_training_left_beside_a_network_is_not_read(bench: Bench) -> None:
    """AveragedModel's counter, thop's, a loss's weights; and layers beside the network, which a warning names."""
    averaged = {f"module.{name}": tensor for name, tensor in bench.tensors.items()} | {"n_averaged": torch.tensor(5)}
    counted = {"total_ops": torch.zeros(1, dtype=torch.float64), "layer1.total_params": torch.ones(1)}
    bench.store(averaged | counted | {"module.criterion.weight": torch.ones(10), "module.fc.total_ops": torch.ones(1)})
    assert bench.run(CHECK, {"model": ID}) == FINISHED
    report = bench.report()
    assert report["sentences"] == []
    assert report["unread"] == sorted([*counted, "module.criterion.weight", "module.fc.total_ops", "n_averaged"])
    bench.store(averaged | {"projector.weight": torch.ones(3, 4), "\0\x1b" + "n" * 300: torch.ones(2)})
    assert bench.run(CHECK, {"model": ID}) == FINISHED
    (sentence,) = bench.report()["sentences"]
    assert sentence == (
        "the file has tensors that resnet8 does not have, which are not read: "
        rf"\u0000\u001b{'n' * 98}, projector.weight"
    )
    assert bench.texts("warning") == [sentence]


def test_several_copies_are_refused_unless_they_are_equal(bench: Bench) -> None:
    once = {f"model.{name}": tensor for name, tensor in bench.tensors.items()}
    again = {f"model_ema.module.{name}": tensor.clone() for name, tensor in bench.tensors.items()}
    bench.store(once | again)
    assert bench.run(CHECK, {"model": ID, "dataset": DIGITS, "images": 100}) == FINISHED
    assert bench.report()["accuracy"] > 0.7
    again["model_ema.module.fc.bias"] += 1
    bench.store(once | again)
    assert bench.run(CHECK, {"model": ID}) == IMPOSSIBLE
    assert bench.refusal() == (
        "the file holds resnet8 2 times, under the prefixes 'model.', 'model_ema.module.', with other numbers each "
        "time; write a file with the one that is meant"
    )


def test_a_network_of_grey_images_gives_the_same_outputs(bench: Bench) -> None:
    """Digits are grey: the sum of the first layer over its channels reads one of them."""
    expects = {"size": 8, "channel_order": "grey", "range": [0, 255], "mean": [51.0], "std": [25.5]}
    one = bench.tensors["conv1.weight"].sum(1, keepdim=True)
    bench.store(bench.tensors | {"conv1.weight": one}, expects=expects)
    record = UserModel.model_validate_json((bench.weights / ID / "model.json").read_bytes())
    images = torch.rand(4, 3, 8, 8)
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    body = ARCHITECTURES["resnet8"].build("resnet8", 10).body
    body.load_state_dict(bench.tensors)
    with torch.no_grad():
        wanted = body.eval()(((grey * 255 - 51) / 25.5).expand(-1, 3, -1, -1))
        torch.testing.assert_close(
            user_network(record, bench.weights / ID).network(images), wanted, rtol=1e-3, atol=1e-3
        )
    assert bench.run(CHECK, {"model": ID, "dataset": DIGITS, "images": 50}) == FINISHED
    assert {"BGR", "ImageNet's mean and std"}.isdisjoint(bench.report()["normalisations"])

    bench.store(bench.tensors, expects=expects)
    assert bench.run(CHECK, {"model": ID}) == IMPOSSIBLE
    assert bench.refusal() == "the file's network reads three channels; expects says the channel_order grey"
    bench.store(bench.tensors | {"conv1.weight": one})
    assert bench.run(CHECK, {"model": ID}) == IMPOSSIBLE
    assert bench.refusal() == (
        "conv1.weight reads one channel; wanted the channel_order grey and one number each as mean and std in expects"
    )


def test_missing_unexpected_and_wrong_tensors_are_named_one_by_one(bench: Bench) -> None:
    tensors = dict(bench.tensors)
    del tensors["conv1.weight"]
    tensors["extra"] = torch.zeros(1)
    tensors["bn1.weight"] = torch.zeros(3)
    bench.store(tensors)
    assert bench.run(CHECK, {"model": ID}) == IMPOSSIBLE
    assert bench.refusal() == (
        "the weights do not fit resnet8: conv1.weight is missing, bn1.weight has the shape [3] and not [16], "
        "extra is unexpected"
    )


def test_twenty_of_each_side_are_named_and_the_others_counted(bench: Bench) -> None:
    strange = {f"stem.{number}.weight": torch.ones(2) for number in range(25)}
    bench.store({"fc.weight": bench.tensors["fc.weight"]} | strange)
    assert bench.run(CHECK, {"model": ID}) == IMPOSSIBLE
    missing = [name for name in bench.tensors if name != "fc.weight" and "num_batches" not in name]
    assert bench.refusal().count("is missing") == 20
    assert bench.refusal().count("is unexpected") == 20
    assert f"and {len(missing) - 20} more, stem.0.weight is unexpected" in bench.refusal()
    assert bench.refusal().endswith("and 5 more")


def test_another_number_of_outputs_is_refused_as_such(bench: Bench) -> None:
    bench.store(bench.tensors, classes=7, class_names=None)
    assert bench.run(CHECK, {"model": ID}) == IMPOSSIBLE
    assert bench.refusal() == (
        "the classifier of the file gives 10 outputs (fc.bias has the shape [10]); wanted 7, as its record says"
    )


def test_weights_that_are_no_numbers_are_refused(bench: Bench) -> None:
    broken = bench.tensors["fc.weight"].clone()
    broken[3, 5] = float("nan")
    bench.store(bench.tensors | {"fc.weight": broken})
    assert bench.run(CHECK, {"model": ID}) == IMPOSSIBLE
    assert bench.refusal() == "the weights are not finite numbers (NaN or infinite) in fc.weight"


def test_outputs_that_are_no_numbers_are_refused(bench: Bench) -> None:
    bench.store(bench.tensors | {"fc.weight": torch.full_like(bench.tensors["fc.weight"], 3e38)})
    assert bench.run(CHECK, {"model": ID}) == IMPOSSIBLE
    assert bench.refusal() == "its outputs are not finite numbers (NaN or infinite)"


def test_outputs_that_are_the_same_for_all_images_are_told(bench: Bench) -> None:
    bench.store(bench.tensors | {"fc.weight": torch.zeros_like(bench.tensors["fc.weight"])})
    assert bench.run(CHECK, {"model": ID}) == FINISHED
    assert bench.texts("warning") == ["its outputs are the same for 8 different images of noise"]


def test_a_hostile_file_is_refused_before_it_is_mapped(bench: Bench) -> None:
    bench.store(bench.tensors)
    (bench.weights / ID / "model.safetensors").write_bytes(b"\x80\x04pickle")
    assert bench.run(CHECK, {"model": ID}) == IMPOSSIBLE
    assert "is a pickle" in bench.refusal()


# Against labels


def permuted(bench: Bench) -> tuple[list[int], dict[str, torch.Tensor]]:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    return order, bench.tensors | {name: bench.tensors[name][order].contiguous() for name in ("fc.weight", "fc.bias")}


def test_a_wrong_order_of_classes_is_found_without_names(bench: Bench) -> None:
    order, tensors = permuted(bench)
    bench.store(tensors, class_names=None)
    assert bench.run(CHECK, {"model": ID, "dataset": DIGITS}) == FINISHED
    report = bench.report()
    assert report["permuted"]["order"] == [order.index(i) for i in range(10)]
    assert report["permuted"]["accuracy"] > 0.8
    assert report["accuracy"] < 0.6
    assert any(sentence.startswith("the class order is probably wrong") for sentence in report["sentences"])


def test_names_in_another_order_put_the_outputs_right(bench: Bench) -> None:
    order, tensors = permuted(bench)
    bench.store(tensors, class_names=[bench.description["class_names"][i] for i in order])
    assert bench.run(CHECK, {"model": ID, "dataset": DIGITS}) == FINISHED
    assert bench.report()["accuracy"] > 0.8
    (sentence,) = bench.texts("warning")
    assert "in another order" in sentence
    assert "are put into the data set's order" in sentence


def test_a_wrong_normalisation_is_found(bench: Bench) -> None:
    wrong = {"size": 8, "channel_order": "rgb", "range": [0, 255], "mean": [0] * 3, "std": [1] * 3}
    bench.store(bench.tensors, expects=wrong)
    assert bench.run(CHECK, {"model": ID, "dataset": DIGITS}) == FINISHED
    assert any(sentence.startswith("what it expects is probably wrong") for sentence in bench.report()["sentences"])


# ONNX


def test_an_onnx_file_is_taken_in_checked_and_teaches(bench: Bench) -> None:
    bench.store(file=bench.onnx)
    assert bench.run(CHECK, {"model": ID, "dataset": DIGITS}) == FINISHED
    report = bench.report()
    assert report["model"]["classes"] == 10
    assert report["model"]["class_names"] == bench.description["class_names"]
    assert report["model"]["expects"]["mean"] == [0, 0, 0]  # it normalises inside
    assert report["accuracy"] > 0.8
    # Its convolutions and matrix products are the card's, with the classifier's 64 x 10.
    size = report["model"]["card"]["image_size"]
    assert report["multiply_adds"] == pytest.approx(CARDS["resnet8"].multiply_adds * (size / 32) ** 2 + 640, rel=0.02)

    (bench.weights / ID / "model.json").write_text(json.dumps(report["model"] | {"warnings": ["it is odd"]}))
    recipe = {
        "dataset": DIGITS,
        "teacher": {"model": ID, "architecture": "onnx"},
        "student": {"architecture": "resnet8"},
        "methods": [{"name": "kd"}],
        "training": TRAINING | {"epochs": 1},
        "exports": [{"name": "safetensors"}],
    }
    assert bench.run(DISTILL, recipe | {"require_teacher": 0.8}) == FINISHED
    assert f"the teacher ({ID}): it is odd" in bench.texts("warning")
    assert bench.run(DISTILL, recipe | {"require_teacher": 1.0}) == IMPOSSIBLE
    assert "require_teacher is 1" in bench.refusal()
    assert bench.run(DISTILL, recipe | {"methods": [{"name": "fitnet"}]}) == IMPOSSIBLE
    assert bench.refusal() == "fitnet: it needs the teacher's stage maps, and an ONNX file gives logits alone"


def small_onnx(**change: Any) -> onnx.ModelProto:
    """Mean over space, then a linear layer to 4 classes."""
    weight = numpy_helper.from_array(numpy.ones((3, 4), numpy.float32), "w")
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    given = {
        "inputs": [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        "outputs": [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        "nodes": nodes,
        "weight": weight,
        "opsets": [helper.make_opsetid("", 18)],
    } | change
    graph = helper.make_graph(given["nodes"], "g", given["inputs"], given["outputs"], [given["weight"]])
    return helper.make_model(graph, opset_imports=given["opsets"], ir_version=9)


def external() -> onnx.ModelProto:
    model = small_onnx()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return model


def external_within() -> onnx.ModelProto:
    """In an attribute of a node of a graph within the graph."""
    inner = numpy_helper.from_array(numpy.ones((3, 4), numpy.float32), "inner")
    inner.ClearField("raw_data")
    inner.data_location = TensorProto.EXTERNAL
    inner.external_data.add(key="location", value="secret")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["c"], value=inner)],
        "branch",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, [3, 4])],
    )
    true = numpy_helper.from_array(numpy.array(True), "t")
    nodes = [
        helper.make_node("Constant", [], ["t"], value=true),
        helper.make_node("If", ["t"], ["v"], then_branch=branch, else_branch=branch),
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]
    return small_onnx(nodes=nodes)


def of_others() -> onnx.ModelProto:
    node = helper.make_node("Evil", ["x"], ["y"], domain="com.evil")
    return small_onnx(nodes=[node], opsets=[helper.make_opsetid("", 18), helper.make_opsetid("com.evil", 1)])


def two_inputs() -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in "xz"]
    return small_onnx(inputs=inputs)


def shaped(*nodes: onnx.NodeProto, functions: Any = (), **tensors: Any) -> onnx.ModelProto:
    """Nodes from images `x` to `z`, before the mean over space; with arrays, or tensors, by name."""
    tail = [
        helper.make_node("GlobalAveragePool", ["z"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    domains = {function.domain for function in functions}
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = small_onnx(nodes=[*nodes, *tail], opsets=opsets)
    for name, value in tensors.items():
        tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(numpy.array(value), name)
        model.graph.initializer.append(tensor)
    model.functions.extend(functions)
    return model


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], **attributes)


def huge() -> onnx.ModelProto:
    """Of a few numbers, twelve terabytes."""
    return shaped(node("ReduceMean", "x", "m"), node("Expand", "m s", "z"), s=[1, 3, 10**6, 10**6])


def huge_when_it_runs() -> onnx.ModelProto:
    """The same, of a size that only its run shows."""
    size = [node("ReduceMax", "x", "a", keepdims=0), node("Add", "a k", "b"), node("Cast", "b", "c", to=7)]
    whole = [node("Concat", "o c c", "s", axis=0), node("ReduceMean", "x", "m"), node("Expand", "m s", "z")]
    return shaped(*size, *whole, k=numpy.array([1e6], numpy.float32), o=[1, 3])


def endless() -> onnx.ModelProto:
    """A loop of 2^62 rounds."""
    typed = helper.make_tensor_value_info
    inputs = [typed("i", TensorProto.INT64, []), typed("c", TensorProto.BOOL, []), typed("v", TensorProto.FLOAT, None)]
    outputs = [typed("d", TensorProto.BOOL, []), typed("u", TensorProto.FLOAT, None)]
    body = helper.make_graph([node("Identity", "c", "d"), node("Identity", "v", "u")], "body", inputs, outputs)
    return shaped(node("Loop", "n t x", "z", body=body), n=2**62, t=True)


def doubling() -> onnx.ModelProto:
    """A list of whole numbers, put to itself forty times: what follows shapes would hold it."""
    lists = [node("Concat", f"s{i} s{i}", f"s{i + 1}", axis=0) for i in range(40)]
    cut = [node("Slice", "s40 b e", "q"), node("Reshape", "x q", "z")]
    return shaped(node("Shape", "x", "s0"), *lists, *cut, b=[0], e=[4])


def function(name: str, *calls: str) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    nodes = [helper.make_node(call, [f"a{i}"], [f"a{i + 1}"], domain="own") for i, call in enumerate(calls)]
    return helper.make_function("own", name, ["a0"], [f"a{len(calls)}"], nodes, opsets)


def laughing() -> onnx.ModelProto:
    """Functions that call others ten times each."""
    last = helper.make_function("own", "f0", ["a"], ["b"], [node("Relu", "a", "b")], [helper.make_opsetid("", 18)])
    more = [function(f"f{i}", *[f"f{i - 1}"] * 10) for i in range(1, 12)]
    return shaped(node("f11", "x", "z", domain="own"), functions=[last, *more])


def calling_itself() -> onnx.ModelProto:
    return shaped(node("f", "x", "z", domain="own"), functions=[function("f", "f")])


def absent(*dims: int) -> onnx.ModelProto:
    """A tensor that is declared, and of which no byte is there."""
    return shaped(node("Add", "x k", "z"), k=TensorProto(name="k", data_type=TensorProto.FLOAT, dims=dims))


def sparse() -> onnx.ModelProto:
    model = small_onnx()
    held = model.graph.sparse_initializer.add(dims=[2**40])
    held.values.CopyFrom(numpy_helper.from_array(numpy.ones(1, numpy.float32), "k"))
    held.indices.CopyFrom(numpy_helper.from_array(numpy.zeros(1, numpy.int64), "i"))
    return model


def external_in_a_list() -> onnx.ModelProto:
    """In an attribute that holds several tensors, of a function's node."""
    inner = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    inner.external_data.add(key="location", value="/etc/passwd")
    held = node("Constant", "", "b", value=numpy_helper.from_array(numpy.ones(1, numpy.float32)))
    held.attribute.add(name="list", type=onnx.AttributeProto.TENSORS).tensors.append(inner)
    own = helper.make_function("own", "f", ["a"], ["b"], [held], [helper.make_opsetid("", 18)])
    return shaped(node("f", "x", "z", domain="own"), functions=[own])


HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "external data": (external, "lies outside the ONNX file"),
    "external data in a graph within": (external_within, "lies outside the ONNX file"),
    "an operator of others": (of_others, "uses the operator Evil of 'com.evil'"),
    "two inputs": (two_inputs, "has 2 inputs"),
    "no graph": (onnx.ModelProto, "is not valid"),
    "twelve terabytes of activations": (huge, "takes 12,000,000,000,092 bytes for one image; at most"),
    "a list that doubles": (doubling, "bytes for one image; at most"),
    "functions of functions": (laughing, "more than 100,000 nodes where its functions are written out"),
    "a function that calls itself": (calling_itself, "more than 32 deep, or themselves"),
    "two absent gigabytes": (
        lambda: absent(1, 3, 13000, 13000),
        "the ONNX file has 15 bytes of it",
    ),
    "a shape beyond 64 bits": (lambda: absent(2**33, 2**33), "the shape (8589934592, 8589934592), and the ONNX file"),
    "a negative shape": (lambda: absent(-1), "has 16 bytes of it"),
    "a sparse tensor": (sparse, "holds a sparse tensor"),
    "texts": (lambda: shaped(node("Expand", "t s", "u"), t=["a" * 999], s=[10**6]), "'t' of the ONNX file holds texts"),
    "texts that are made": (
        lambda: shaped(node("Cast", "x", "t", to=8)),
        "the operator Cast of the ONNX file makes texts",
    ),
    "texts in an attribute": (
        lambda: shaped(node("Constant", "", "t", value_strings=["a"])),
        "the operator Constant of the ONNX file makes texts",
    ),
    "external data in a list": (external_in_a_list, "lies outside the ONNX file"),
}


def test_hostile_onnx_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    for name, (make, says) in HOSTILE.items():
        file.write_bytes(make().SerializeToString())
        with pytest.raises(Impossible) as refusal:
            load_onnx(file)
        assert says in str(refusal.value), name
        assert "\n" not in str(refusal.value), name


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (huge_when_it_runs, "takes more memory for a batch of 3 than the"),
        (endless, "has no output for a batch of 3 after 0.3 s"),
    ],
)
def test_a_hostile_network_is_stopped_when_it_runs(
    make: Callable[[], onnx.ModelProto], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_network, "SECONDS_PER_IMAGE", 0.3)
    file = tmp_path / "m.onnx"
    file.write_bytes(make().SerializeToString())
    with pytest.raises(Impossible) as refusal:
        load_onnx(file)
    assert says in str(refusal.value)


def test_no_more_images_are_run_at_once_than_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "m.onnx"
    # Of one image the network holds 768 bytes made of its 768, then the mean over space, besides 48 of its weights.
    file.write_bytes(shaped(node("Relu", "x", "z")).SerializeToString())
    whole = load_onnx(file)
    monkeypatch.setattr(onnx_network, "memory_budget", lambda: 6 * 900)
    network = load_onnx(file)
    assert network.at_once == 3
    images = torch.rand(7, 3, 8, 8)
    torch.testing.assert_close(network.run(images), whole.run(images))
    monkeypatch.setattr(onnx_network, "memory_budget", lambda: 800)
    with pytest.raises(Impossible, match="bytes for one image; at most 800 are available"):
        load_onnx(file)


def slow_convolution() -> onnx.ModelProto:
    """One operator of 8e13 multiply-adds, on zeros that a few numbers ask for."""
    zeros = [node("ConstantOfShape", "s", "i"), node("ConstantOfShape", "k", "j"), node("Conv", "i j", "c")]
    sides = {"s": [1, 1, 6000, 6000], "k": [1, 1, 3000, 3000]}
    return shaped(*zeros, node("ReduceMax", "c", "m", keepdims=0), node("Add", "x m", "z"), **sides)


def slow_product() -> onnx.ModelProto:
    zeros = [node("ConstantOfShape", "s", "i"), node("MatMul", "i i", "c")]
    return shaped(*zeros, node("ReduceMax", "c", "m", keepdims=0), node("Add", "x m", "z"), s=[8000, 8000])


def long_chain() -> onnx.ModelProto:
    """Loading it takes time that grows with the square of its length."""
    names = ["x", *(f"r{i}" for i in range(20_000)), "z"]
    return shaped(*(node("Relu", before, after) for before, after in pairwise(names)))


ENGINE_IN_HASTE = """
import sys
from retort.engine import __main__ as engine, onnx_graph, onnx_network, onnx_shapes
onnx_network.SECONDS_PER_IMAGE, onnx_network.UNINTERRUPTED_SECONDS = 1, 0
onnx_network.LOADING_SECONDS = float(sys.argv.pop(1))
engine.leave(engine.main())
"""


@pytest.mark.parametrize(
    ("make", "loading_seconds", "says"),
    [
        (slow_convolution, 60, "the ONNX network has no output for a batch of 3 after 1 s"),
        (slow_product, 60, "the ONNX network has no output for a batch of 3 after 1 s"),
        (long_chain, 0.01, "the ONNX file was not loaded within 60 s; wanted a network that loads in less"),
    ],
)
def test_one_slow_call_ends_the_engine_with_a_sentence(
    make: Callable[[], onnx.ModelProto], loading_seconds: float, says: str, bench: Bench, tmp_path: Path
) -> None:
    """No exception reaches the thread that is busy: the process itself has to end."""
    file, spec = tmp_path / "m.onnx", tmp_path / "spec.json"
    file.write_bytes(make().SerializeToString())
    bench.store(
        file=file, expects={"size": 8, "channel_order": "rgb", "range": [0, 1], "mean": [0] * 3, "std": [1] * 3}
    )
    spec.write_text(json.dumps({"model": ID}))
    command = [sys.executable, "-c", ENGINE_IN_HASTE, str(loading_seconds), str(spec), str(tmp_path)]
    ended = subprocess.run(
        [*command, "--kind", "check", "--weights", str(bench.weights)], capture_output=True, text=True
    )
    assert ended.returncode == IMPOSSIBLE, ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    assert (last["kind"], last["text"], ended.stderr) == ("failed", says, f"{says}\n")


def test_a_call_that_lets_no_thread_run_is_ended_by_the_kernel() -> None:
    program = """
import ctypes
from retort.engine import watchdog
watchdog.KERNEL_SECONDS = 0.2
with watchdog.ends_within(60, ""):
    pass
with watchdog.ends_within(0.1, "not said"):
    ctypes.PyDLL(None).sleep(60)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGALRM, "")


def within(number: int, content: bytes) -> bytes:
    """A message as a field of that number."""
    length, left = b"", len(content)
    while left > 127:
        length, left = length + bytes([left & 127 | 128]), left >> 7
    return bytes([number << 3 | 2]) + length + bytes([left]) + content


def deep() -> bytes:
    content = b""
    for _ in range(10_000):  # a graph in an attribute of a node of a graph
        content = within(1, within(5, within(6, content)))
    return within(7, content)


def test_bytes_that_are_no_model_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    for content in (deep(), within(7, b"")[:-1] + b"\xff\xff\x03", b"\xff" * 20, within(7, b"")[:-1]):
        file.write_bytes(content)
        with pytest.raises(Impossible, match="the file is not ONNX: it cannot be parsed"):
            load_onnx(file)
    file.write_bytes(b"\x0b\x0c")  # an empty group, which protobuf passes over
    with pytest.raises(Impossible, match="the ONNX file is not valid"):
        load_onnx(file)


LOADED_ALONE = """
import sys, time
from pathlib import Path
from retort.engine import onnx_graph
from retort.engine.interrupt import Impossible

import onnx

begin = time.monotonic()
try:
    onnx_graph.parse_onnx(Path(sys.argv[1]))
except Impossible as error:
    print(error)
print(time.monotonic() - begin)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.parametrize(
    ("make", "says"),
    [
        # Eight million empty nodes take 1.2 GB, and half a minute to look through.
        (lambda: within(7, within(1, b"") * 8_000_000), "bytes of memory once it is parsed; write weights as raw"),
        # Whole numbers of a byte each take 8, and twice that while their list grows.
        (lambda: within(7, within(5, within(7, bytes(80_000_000)))), "bytes of memory once it is parsed; write"),
        (lambda: within(7, within(1, b"") * 1_000_000), "has 1,000,000 nodes; at most 100,000 are read"),
        (lambda: within(7, within(5, b"") * 1_000_000), "has 1,000,000 tensors; at most 100,000 are read"),
    ],
    ids=["nodes", "packed numbers", "fewer nodes", "tensors"],
)
def test_few_bytes_that_are_many_in_memory_are_refused_in_bounded_memory_and_time(
    make: Callable[[], bytes], says: str, tmp_path: Path
) -> None:
    """In a process of its own: what others have left free in this one would count as room."""
    file = tmp_path / "m.onnx"
    file.write_bytes(make())
    command = [sys.executable, "-c", LOADED_ALONE, str(file)]
    sentence, seconds, peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert says in sentence
    assert float(seconds) < 20
    assert int(peak) << 10 < 3 * file.stat().st_size + onnx_graph.PARSED_ROOM + (200 << 20)


def test_a_bound_of_memory_goes_with_the_parsing(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    before = resource.getrlimit(resource.RLIMIT_DATA)
    for content in (small_onnx().SerializeToString(), b"\xff"):
        file.write_bytes(content)
        with suppress(Impossible):
            load_onnx(file)
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_is_no_onnx_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    file.write_bytes(os.urandom(1000))
    with pytest.raises(Impossible, match=r"cannot be parsed|not valid"):
        load_onnx(file)


def test_a_fixed_batch_and_channels_last_are_served(tmp_path: Path) -> None:
    file = tmp_path / "m.onnx"
    nodes = [
        helper.make_node("ReduceMean", ["x", "axes"], ["f"], keepdims=0),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
        helper.make_node("Constant", [], ["axes"], value=numpy_helper.from_array(numpy.array([1, 2]), "axes")),
    ]
    model = small_onnx(
        nodes=[nodes[2], *nodes[:2]],
        inputs=[helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8, 8, 3])],
        outputs=[helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])],
        weight=numpy_helper.from_array(numpy.arange(12, dtype=numpy.float32).reshape(3, 4), "w"),
    )
    file.write_bytes(model.SerializeToString())
    images = torch.rand(6, 3, 8, 8)
    network = load_onnx(file)
    assert (network.batch, network.size) == (4, 8)
    torch.testing.assert_close(network.run(images), images.mean((2, 3)) @ torch.arange(12.0).view(3, 4))


def test_each_method_serves_logits_alone_or_says_what_it_lacks() -> None:
    facts = ImageClassFacts(classes=10, class_names=tuple("0123456789"), image_size=8, train=99, validation=9, test=9)
    bare = CARDS["resnet8"].model_copy(update={"architecture": "onnx", "stages": (), "embedding": 0, "head": "other"})
    setup = Setup(facts, 10, CARDS["resnet8"], bare, 32, 2, CARDS)
    for name in METHODS:
        method = METHODS[name].model_validate({"name": name})
        sentences = [sentence for _, sentence in check_methods((method,), setup, TASKS["classification"])]
        taps = method.taps(setup) if not sentences else frozenset()
        read = {tap.reads for tap in taps if tap.network.__class__.__name__ == "TeacherNetwork"}
        assert read <= {"logits"}, name
        assert all("an ONNX file gives logits alone" in sentence for sentence in sentences), name
