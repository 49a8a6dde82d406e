"""The contract of every export: one file, with the network's outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from retort.architectures import ARCHITECTURES
from retort.dataset import ImageClassFacts
from retort.export import Export
from retort.exports import EXPORTS
from retort.exports.onnx import Onnx
from retort.exports.safetensors import Safetensors
from retort.input import Input
from retort.methods.nckd import PrototypeClassifier
from retort.network import Network
from retort.student import describe, load_student
from retort.tasks import TASKS

NAMES = ("ash", "birch", "cédre")
Reader = Callable[[Path, dict[str, Any]], Callable[[Tensor], Tensor]]


def read_safetensors(file: Path, description: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    with TemporaryDirectory() as folder:
        student = Path(folder) / "student.json"
        student.write_text(json.dumps(description))
        return load_student(student, file)[0]


def read_onnx(file: Path, description: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    onnx.checker.check_model(onnx.load(file), full_check=True)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


READERS: dict[str, Reader] = {".safetensors": read_safetensors, ".onnx": read_onnx}
"""An independent reader of each format."""


def network_of(architecture: str, size: int) -> Network:
    torch.manual_seed(0)
    network = ARCHITECTURES[architecture].build(architecture, len(NAMES))
    network.set_input(Input(size=size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))
    network.train()(torch.rand(8, 3, size, size))  # running statistics that are not the initial ones
    return network.eval()


def described(network: Network, architecture: str, **more: Any) -> dict[str, Any]:
    fields = {"wrapper": None, "weights_dtype": "float32"} | more
    facts = ImageClassFacts(classes=len(NAMES), class_names=NAMES, image_size=8, train=3, validation=3, test=3)
    task = TASKS["classification"]
    return describe(network, name="small", task=task, facts=facts, architecture=architecture, **fields)


def logits(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad():
        return network(images)


class Exported(NamedTuple):
    """A network and its ONNX file."""

    network: Network
    description: dict[str, Any]
    file: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """resnet8 for images of 8 pixels, exported once."""
    network, file = network_of("resnet8", 8), tmp_path_factory.mktemp("onnx") / "small.onnx"
    description = described(network, "resnet8")
    Onnx(opset=20).write(network, description, file)
    return Exported(network, description, file)


def assert_same_logits(read: Callable[[Tensor], Tensor], network: Network, size: int) -> None:
    for count in (1, 2, 5):
        images = torch.rand(count, 3, size, size)
        assert torch.allclose(logits(read, images), logits(network, images), atol=1e-4)


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
@pytest.mark.parametrize(
    ("architecture", "size"), [("resnet8", 8), pytest.param("wrn_16_1", 16, marks=pytest.mark.long)]
)
def test_the_file_gives_the_networks_logits(
    export: type[Export], architecture: str, size: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    written = export(name=export.model_fields["name"].default)
    if export is Onnx and architecture == "resnet8":
        network, description, file = request.getfixturevalue("exported")
    else:
        network, file = network_of(architecture, size), tmp_path / f"small{written.suffix}"
        description = described(network, architecture)
        written.write(network, description, file)
    assert list(file.parent.iterdir()) == [file], "one file that needs nothing beside it"
    assert written.suffix in READERS, "a new kind of file needs a reader here, to prove that it can be read"
    assert_same_logits(READERS[written.suffix](file, description), network, size)


def test_each_names_its_suffix_and_media_type() -> None:
    for name, export in EXPORTS.items():
        assert export.suffix.startswith("."), name
        assert "/" in export.media_type, name
        assert export.__doc__, name


@pytest.mark.parametrize(
    "architecture",
    [
        "torchvision.squeezenet1_1",
        *(pytest.param(f"torchvision.{name}", marks=pytest.mark.long) for name in ("shufflenet_v2_x0_5", "swin_t")),
    ],
)
def test_onnx_of_a_network_that_is_not_ours(architecture: str, tmp_path: Path) -> None:
    size = 32
    network = network_of(architecture, size)
    description = described(network, architecture)
    Onnx().write(network, description, tmp_path / "small.onnx")
    assert_same_logits(read_onnx(tmp_path / "small.onnx", description), network, size)


def test_onnx_of_a_head_that_a_method_gave(tmp_path: Path) -> None:
    network = network_of("resnet8", 8)
    PrototypeClassifier(student_features=64, teacher_features=10, classes=3, scale=8.0, projects=True).build(
        network, ARCHITECTURES["resnet8"].build
    )
    for parameter in network.classifier.parameters():
        parameter.data.uniform_(-1, 1)
    description = described(network, "resnet8")
    Onnx().write(network, description, tmp_path / "small.onnx")
    images = torch.rand(3, 3, 8, 8)
    found = logits(read_onnx(tmp_path / "small.onnx", description), images)
    assert torch.allclose(found, logits(network, images), atol=1e-4)


def test_onnx_metadata_name_classes_input_and_origin(exported: Exported) -> None:
    model = onnx.load(exported.file, load_external_data=False)
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert metadata["class_names"] == list(NAMES)
    assert metadata["input"] == exported.description["input"]
    assert metadata["retort"] == exported.description
    assert metadata["you_feed"] == "RGB, float32, 0 to 1, N x 3 x 8 x 8"
    assert model.opset_import[0].version == 20
    assert not [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    (images,), (answer,) = model.graph.input, model.graph.output
    assert (images.name, answer.name) == ("images", "logits")
    assert images.doc_string == "RGB, float32, 0 to 1, N x 3 x 8 x 8; the network normalises inside"
    shape = images.type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [dim.dim_value for dim in shape[1:]] == [3, 8, 8]


def test_onnx_normalises_inside(exported: Exported) -> None:
    network, description, file = exported
    images = torch.rand(2, 3, 8, 8)
    found = logits(read_onnx(file, description), images)
    with torch.no_grad():
        assert torch.allclose(found, network.body(network.normalise(images)), atol=1e-4)
        assert not torch.allclose(found, network.body(images), atol=1e-2)


def test_safetensors_bear_the_makers_names_and_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    network = network_of("torchvision.shufflenet_v2_x0_5", 32)
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for file in files:
        Safetensors().write(network, described(network, "torchvision.shufflenet_v2_x0_5"), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    with safe_open(files[0], "pt") as opened:
        assert set(opened.keys()) == set(network.body.state_dict())
        assert opened.metadata() == {"format": "pt"}


def test_safetensors_in_half_precision_round_to_the_nearest_and_count_exactly(tmp_path: Path) -> None:
    network, file = network_of("resnet8", 8), tmp_path / "small.safetensors"
    Safetensors().write(network, described(network, "resnet8", weights_dtype="float16"), file)
    with safe_open(file, "pt") as opened:
        for name, value in network.body.state_dict().items():
            stored = opened.get_tensor(name)
            assert torch.equal(stored, value.half() if value.is_floating_point() else value)
            assert stored.dtype == (torch.float16 if value.is_floating_point() else torch.int64)
