"""Shipped networks are built again from two files, or refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from retort.architectures import ARCHITECTURES
from retort.dataset import ImageClassFacts
from retort.exports.safetensors import Safetensors
from retort.input import Input
from retort.method import Wrapper
from retort.methods.nckd import PrototypeClassifier
from retort.network import Network
from retort.student import StudentError, describe, load_student
from retort.tasks import TASKS
from retort.user_model import from_description, parsed_expects

NAMES = ("ash", "birch", "cedar")
FACTS = ImageClassFacts(classes=3, class_names=NAMES, image_size=8, train=3, validation=3, test=3)
HEAD = PrototypeClassifier(student_features=64, teacher_features=10, classes=3, scale=8.0, projects=True)


def ship(folder: Path, wrapper: tuple[str, Wrapper] | None = None, weights_dtype: str = "float32") -> Network:
    """A network with random weights and running statistics, written as a job writes it."""
    torch.manual_seed(1)
    network = ARCHITECTURES["resnet8"].build("resnet8", 3)
    if wrapper is not None:
        wrapper[1].build(network, ARCHITECTURES["resnet8"].build)
    network.set_input(Input(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)))
    for parameter in network.parameters():
        parameter.data.uniform_(-1, 1)
    network.train()(torch.rand(4, 3, 8, 8))
    if weights_dtype == "float16":
        network.load_state_dict(
            {n: v.half().float() if v.is_floating_point() else v for n, v in network.state_dict().items()}
        )
    description = describe(
        network.eval(),
        name="small",
        task=TASKS["classification"],
        facts=FACTS,
        architecture="resnet8",
        wrapper=wrapper,
        weights_dtype=weights_dtype,
    )
    Safetensors().write(network, description, folder / "small.safetensors")
    (folder / "small.json").write_text(json.dumps(description | {"test": {"accuracy": 0.5}}))
    return network


def change(folder: Path, **changes: Any) -> None:
    file = folder / "small.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("wrapper", [None, ("nckd", HEAD)], ids=["plain", "wrapped"])
@pytest.mark.parametrize("weights_dtype", ["float32", "float16"])
def test_a_shipped_network_says_what_it_said_in_the_job(
    tmp_path: Path, wrapper: tuple[str, Wrapper] | None, weights_dtype: str
) -> None:
    network = ship(tmp_path, wrapper, weights_dtype)
    before = torch.get_rng_state()
    loaded, description = load_student(tmp_path / "small.json")
    assert torch.equal(torch.get_rng_state(), before), "loading draws nothing from the caller's generator"
    images = torch.rand(4, 3, 8, 8)
    assert not loaded.training
    assert loaded.image == network.image
    assert torch.equal(loaded(images), network(images))
    assert all(value.dtype != torch.float16 for value in loaded.state_dict().values())
    assert description["class_names"] == list(NAMES)
    assert description["test"] == {"accuracy": 0.5}
    assert description["parameters"] == loaded.parameter_count()


def test_the_description_says_what_to_feed_and_that_the_network_normalises(tmp_path: Path) -> None:
    ship(tmp_path)
    described = json.loads((tmp_path / "small.json").read_text())["input"]
    assert described["you_feed"] == "RGB, float32, 0 to 1, N x 3 x 8 x 8"
    assert described["crop"] == "the middle square of the upright image"
    assert described["resize"] == "bilinear, antialiased, to 8 x 8"
    assert described["normalises_inside"] == {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "channel_order": "rgb"}
    assert not {"mean", "std"} & described.keys(), "a caller would apply them"


def test_images_that_were_stored_smaller_are_enlarged_from_that_size() -> None:
    network = ARCHITECTURES["resnet8"].build("resnet8", 3)
    network.set_input(Input(size=224, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4), channel_order="bgr"))
    described = describe(
        network, name="small", task=TASKS["classification"], facts=FACTS, architecture="resnet8", wrapper=None,
        weights_dtype="float32",
    )["input"]  # fmt: skip
    assert described["resize"] == "bilinear, antialiased, to 8 x 8, and then to 224 x 224"
    assert described["you_feed"] == "RGB, float32, 0 to 1, N x 3 x 224 x 224"
    assert described["normalises_inside"]["channel_order"] == "bgr"


def test_a_description_of_versions_0_1_and_0_2_is_read(tmp_path: Path) -> None:
    network = ship(tmp_path)
    statistics = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "channel_order": "rgb"}
    old = {"size": 8, **statistics, "range": [0, 1], "layout": "NCHW", "channels": "RGB",
           "resize": "bilinear, antialiased"}  # fmt: skip
    change(tmp_path, retort=1, input=old)
    assert load_student(tmp_path / "small.json")[0].image == network.image


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_what_a_model_expects_follows_from_its_description_old_or_new(order: str) -> None:
    statistics = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "channel_order": order}
    image = Input(size=8, **statistics)
    for described in ({"size": 8, **statistics}, {"size": 8, "normalises_inside": statistics}):
        found, wrong = parsed_expects(from_description({"input": described})["expects"])
        assert found is not None, wrong
        assert found.input() == image


def test_half_precision_halves_the_file(tmp_path: Path) -> None:
    sizes = []
    for weights_dtype in ("float32", "float16"):
        ship(tmp_path, weights_dtype=weights_dtype)
        sizes.append((tmp_path / "small.safetensors").stat().st_size)
    assert 0.45 < sizes[1] / sizes[0] < 0.6


def test_the_weights_file_may_lie_elsewhere(tmp_path: Path) -> None:
    ship(tmp_path)
    moved = (tmp_path / "small.safetensors").rename(tmp_path / "weights")
    assert load_student(tmp_path / "small.json", moved)[1]["name"] == "small"
    with pytest.raises(StudentError, match=r"small\.safetensors cannot be read"):
        load_student(tmp_path / "small.json")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"retort": 3}, "retort: Input should be 1 or 2"),
        ({"architecture": "resnet9"}, "the network is a 'resnet9'; no such architecture is installed here"),
        ({"classes": 4}, "4 classes and 3 class names"),
        ({"classes": 0}, "classes: Input should be greater than"),
        ({"input": {"size": 8}}, "input/normalises_inside: Field required"),
        ({"input": {"size": 8, "mean": [0, 0, 0]}}, "input/normalises_inside/std: Field required"),
        ({"wrapper": {"method": "kd", "fields": {}}}, "changed by method 'kd'; no such method is installed here"),
        ({"wrapper": {"method": "nckd", "fields": {}}}, "what nckd changed is wrong: student_features: Field required"),
        ({"weights_file": "../../secret"}, "weights_file: String should match pattern"),
        ({"weights_dtype": "int8"}, "weights_dtype: Input should be 'float32' or 'float16'"),
    ],
)
def test_a_description_that_gives_no_network_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    ship(tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(StudentError) as raised:
        load_student(tmp_path / "small.json")
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_what_is_no_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "small.json").write_text(text)
    with pytest.raises(StudentError, match=r"^small\.json is not"):
        load_student(tmp_path / "small.json")


def test_a_missing_description_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudentError, match=r"absent\.json cannot be read"):
        load_student(tmp_path / "absent.json")


def test_weights_must_fit_name_by_name_and_shape_by_shape(tmp_path: Path) -> None:
    ship(tmp_path)
    file = tmp_path / "small.safetensors"
    weights = load_file(file)
    weights["extra"] = weights.pop("conv1.weight")
    weights["fc.bias"] = torch.zeros(4)
    save_file(weights, file)
    with pytest.raises(StudentError) as raised:
        load_student(tmp_path / "small.json")
    for part in ("1 missing (conv1.weight)", "1 unexpected (extra)", "1 of another shape (fc.bias)"):
        assert part in str(raised.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    ship(tmp_path)
    file = tmp_path / "small.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(StudentError, match=r"small\.safetensors cannot be read as safetensors"):
        load_student(tmp_path / "small.json")
