"""int8: the graph computes in it, its numbers are those of the formula, and the measured accuracy chooses the form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from retort.compression import CompressionSetup
from retort.compressions.quantize import Quantize
from retort.engine.inference import quick
from retort.network import Network
from retort.quantization import FORMS, IntegerForm, Quantized
from tests.retort.exports.test_contract import described, network_of

SIZE = 8
FORM = {form.name: form for form in FORMS}


def folded(architecture: str, size: int) -> Network:
    network = network_of(architecture, size)
    return quick(network, torch.rand(2, 3, size, size), in_place=False).to(memory_format=torch.contiguous_format)


@pytest.fixture(scope="module")
def network() -> Network:
    return folded("resnet8", SIZE)


@pytest.fixture(scope="module")
def quantized(network: Network) -> Quantized:
    torch.manual_seed(1)
    return Quantized(network, torch.rand(64, 3, SIZE, SIZE).split(32))


@pytest.fixture(scope="module")
def graph(quantized: Quantized, network: Network) -> bytes:
    return quantized.export(described(network, "resnet8"))


def run(file: Path, images: torch.Tensor) -> torch.Tensor:
    """The logits of the graph as it is written, whatever a processor's joined operations round."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def test_every_convolution_computes_in_8_bits(quantized: Quantized, graph: bytes, tmp_path: Path) -> None:
    for form in (FORMS[0], FORM["int8_per_channel_minmax"], FORM["uint8_reduced_per_tensor_percentile"]):
        quantized.write(graph, form, tmp_path / "x.onnx")
        model = onnx.load(tmp_path / "x.onnx")
        onnx.checker.check_model(model, full_check=True)
        made_by = {name: node for node in model.graph.node for name in node.output}
        stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
        assert len(layers) == 10
        for node in layers:
            images, weight, bias = (made_by[name] for name in node.input)
            assert {one.op_type for one in (images, weight, bias)} == {"DequantizeLinear"}, form.name
            assert stored[weight.input[0]].dtype == np.int8
            assert np.abs(stored[weight.input[0]]).max() <= form.levels
            assert stored[bias.input[0]].dtype == np.int32
            assert stored[images.input[2]].dtype == np.dtype(form.activations)
        assert not [name for name, values in stored.items() if values.dtype == np.float32 and values.size > 64]


def test_onnxruntime_joins_each_of_them_into_one_operation_on_integers(
    quantized: Quantized, graph: bytes, tmp_path: Path
) -> None:
    quantized.write(graph, FORMS[0], tmp_path / "x.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(tmp_path / "x.onnx", options, providers=["CPUExecutionProvider"])
    found = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    assert (found.count("QLinearConv"), found.count("QGemm"), found.count("Conv")) == (9, 1, 0)


def test_the_numbers_are_those_of_the_formula(
    quantized: Quantized, graph: bytes, network: Network, tmp_path: Path
) -> None:
    quantized.write(graph, FORM["uint8_per_channel_minmax"], tmp_path / "x.onnx")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(tmp_path / "x.onnx").graph.initializer}
    weight = network.classifier.weight.detach().numpy().astype(np.float64)
    scale = np.abs(weight).max(1) / 127
    assert np.allclose(stored["weight_scale_9"], scale, rtol=1e-6)
    # Off by one at most, where float32 rounds a quotient that lies between two integers.
    assert np.abs(stored["weight_9"] - np.rint(weight / scale[:, None])).max() <= 1
    assert np.abs(stored["weight_9"] * scale[:, None] - weight).max() <= 0.51 * scale.max()
    low, high = quantized.ranges["minmax"][0]
    assert low < 0 < high, "images minus their mean"
    assert np.isclose(stored["scale_0"], (high - low) / 255)
    assert stored["zero_0"] == round(-low / ((high - low) / 255))


def test_logits_stay_near_at_any_batch(quantized: Quantized, graph: bytes, network: Network, tmp_path: Path) -> None:
    quantized.write(graph, FORM["uint8_per_channel_minmax"], tmp_path / "x.onnx")
    for count in (1, 3, 32):
        images = torch.rand(count, 3, SIZE, SIZE)
        with torch.no_grad():
            wanted = network(images)
        found = run(tmp_path / "x.onnx", images)
        assert (found - wanted).norm() < 0.1 * wanted.norm()


def test_metadata_says_what_to_feed(quantized: Quantized, graph: bytes, network: Network, tmp_path: Path) -> None:
    quantized.write(graph, FORMS[0], tmp_path / "x.onnx")
    model = onnx.load(tmp_path / "x.onnx")
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["you_feed"] == "RGB, float32, 0 to 1, N x 3 x 8 x 8"
    assert metadata["retort"] == described(network, "resnet8")
    assert b"/retort/" not in (tmp_path / "x.onnx").read_bytes(), "paths of this machine"


def test_a_network_without_a_layer_to_quantise_comes_without_the_file(network: Network, tmp_path: Path) -> None:
    setup = CompressionSetup(
        network=torch.nn.Flatten(),  # type: ignore[arg-type]
        description=described(network, "resnet8"),
        training_inputs=lambda count: iter(torch.rand(count, 3, SIZE, SIZE).split(16)),
        value=0.9,
        measure=lambda file: 0.0,
        better=float.__gt__,
        folder=tmp_path,
    )
    made = Quantize().compress(setup)
    assert (made.file, made.facts) == (None, {})
    assert made.missed == "there is no int8 file: the network has no convolution or linear layer that is quantised"


class Written:
    """Stands for `Quantized`, which other tests look at: writes a file a form."""

    def __init__(self, network: Network, batches: Iterable[torch.Tensor]) -> None:
        assert [len(batch) for batch in batches] == [16, 4], "as many examples as are asked for"

    def export(self, description: dict[str, Any]) -> bytes:
        return description["name"].encode()

    def write(self, graph: bytes, form: IntegerForm, file: Path) -> None:
        file.write_bytes(graph)


@pytest.fixture
def setup(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompressionSetup:
    monkeypatch.setattr("retort.quantization.Quantized", Written)
    best = ("int8_per_channel_minmax", "uint8_reduced_per_tensor_minmax")
    return CompressionSetup(
        network=network,
        description=described(network, "resnet8"),
        training_inputs=lambda count: iter(torch.rand(count, 3, SIZE, SIZE).split(16)),
        value=0.9,
        measure=lambda file: 0.8 if file.stem in best else 0.5,
        better=float.__gt__,
        folder=tmp_path,
    )


def test_the_best_form_is_kept_of_equals_the_first(setup: CompressionSetup) -> None:
    made = Quantize(calibration_examples=20, accuracy_drop=0.11).compress(setup)
    assert made.file == setup.folder / "int8_per_channel_minmax.onnx"
    assert (made.missed, made.facts["validation"], made.facts["form"]) == ("", 0.8, "int8_per_channel_minmax")
    assert made.facts["tried"].keys() == FORM.keys()


def test_a_missed_bound_leaves_the_file_out_and_says_so(setup: CompressionSetup) -> None:
    made = Quantize(calibration_examples=20, accuracy_drop=0.05).compress(setup)
    assert made.file is None
    assert made.missed == (
        "the headline metric on the validation split is 0.8000 in int8 and 0.9000 before; accuracy_drop is 0.05, "
        "so that there is no int8 file"
    )
    better = replace(setup, value=0.7)
    assert Quantize(calibration_examples=20, accuracy_drop=0).compress(better).file is not None, "it became better"


@pytest.mark.long
@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        ("mobilenet_v2_half", 32),
        ("torchvision.squeezenet1_1", 64),
        ("vgg8", 32),
        ("wrn_16_1", 32),
        ("torchvision.mobilenet_v3_small", 64),
        ("torchvision.resnet18", 64),
        ("timm.vit_tiny_patch16_224", 224),
    ],
)
def test_networks_of_any_make_are_quantised(architecture: str, size: int, tmp_path: Path) -> None:
    network = folded(architecture, size)
    torch.manual_seed(1)
    images = torch.rand(32, 3, size, size)
    quantized = Quantized(network, [images])
    quantized.write(quantized.export(described(network, architecture)), FORMS[0], tmp_path / "x.onnx")
    with torch.no_grad():
        wanted = network(images)
    found = run(tmp_path / "x.onnx", images)
    assert (found - wanted).norm() < 0.2 * (wanted - wanted.mean(0)).norm() + 0.02 * wanted.norm()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert (tmp_path / "x.onnx").stat().st_size < 0.3 * 4 * parameters + 300_000
