"""Networks that come with weights keep the input that these expect, whatever the data's."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch.nn import functional as F

from retort.architectures import ARCHITECTURES
from retort.dataset import ImageClassFacts
from retort.engine import networks
from retort.engine.interrupt import Impossible
from retort.network import Network
from retort.recipe import Student, Teacher, Training
from retort.tasks import TASKS
from tests.retort.architectures.published import hub_file, offline_hub, torchvision_checkpoint
from tests.retort.engine.runs import recipe_of, run

CLASSIFICATION = TASKS["classification"]
FACTS = ImageClassFacts(
    classes=4,
    class_names=tuple("abcd"),
    image_size=32,
    train=8,
    validation=1,
    test=1,
    mean=(0.1, 0.2, 0.3),
    std=(0.7, 0.8, 0.9),
)
EXPECTED = {
    "timm.test_vit": (160, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "torchvision.shufflenet_v2_x0_5": (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@pytest.fixture(params=EXPECTED)
def architecture(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An architecture whose published weights lie on this machine."""
    name: str = request.param
    torch.manual_seed(5)
    if name.startswith("timm."):
        offline_hub(tmp_path, monkeypatch)
        hub_file(tmp_path, name, dict(timm.create_model(name.removeprefix("timm.")).state_dict()))
    else:
        torchvision_checkpoint(tmp_path, name, monkeypatch)
    return name


def by_hand(network: Network, images: torch.Tensor, architecture: str) -> torch.Tensor:
    size, mean, std = EXPECTED[architecture]
    large = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return network.body((large - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1))


def test_a_teacher_and_its_student_each_see_the_images_in_their_own_way(architecture: str, tmp_path: Path) -> None:
    teacher = networks.teacher_network(
        CLASSIFICATION, Teacher(architecture=architecture, weights="published", teach=Training()), FACTS, tmp_path
    ).eval()
    student = networks.student_network(CLASSIFICATION, Student(architecture="resnet8"), FACTS, tmp_path).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), by_hand(teacher, images, architecture))
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (FACTS.mean, FACTS.std))
        torch.testing.assert_close(student(images), student.body((images - mean) / std))
        assert teacher(images).shape == student(images).shape == (2, 4)


def test_a_student_that_starts_from_published_weights_keeps_their_input(architecture: str, tmp_path: Path) -> None:
    student = networks.student_network(
        CLASSIFICATION, Student(architecture=architecture, weights="published"), FACTS, tmp_path
    )
    assert (student.image.size, student.image.mean, student.image.std) == EXPECTED[architecture]
    published, _ = ARCHITECTURES[architecture].published(architecture)
    head = student.layout.classifier
    for name, value in student.body.state_dict().items():
        assert name.startswith(f"{head}.") or torch.equal(value, published.body.state_dict()[name]), name


def test_without_weights_the_data_decides_but_a_fixed_size_stays(tmp_path: Path) -> None:
    fixed = networks.student_network(CLASSIFICATION, Student(architecture="timm.test_vit"), FACTS, tmp_path)
    assert (fixed.image.size, fixed.image.mean, fixed.image.std) == (160, FACTS.mean, FACTS.std)
    free = networks.student_network(CLASSIFICATION, Student(architecture="timm.test_resnet"), FACTS, tmp_path)
    assert (free.image.size, free.image.mean, free.image.std) == (32, FACTS.mean, FACTS.std)


def test_a_fresh_classifier_replaces_every_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "timm.deit_tiny_distilled_patch16_224"
    offline_hub(tmp_path, monkeypatch)
    hub_file(tmp_path, name, dict(timm.create_model(name.removeprefix("timm.")).state_dict()))
    student = networks.student_network(CLASSIFICATION, Student(architecture=name, weights="published"), FACTS, tmp_path)
    shapes = {key: tuple(value.shape) for key, value in student.body.state_dict().items() if key.startswith("head")}
    assert shapes == {"head.weight": (4, 192), "head.bias": (4,), "head_dist.weight": (4, 192), "head_dist.bias": (4,)}


def test_a_network_that_the_installed_library_lacks_ends_the_job_with_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ARCHITECTURES, "timm.resnet18x", ARCHITECTURES["timm.test_vit"])
    with pytest.raises(Impossible, match=r"the installed timm, .*, has no network 'resnet18x'"):
        networks.initialised(CLASSIFICATION, "timm.resnet18x", 0, FACTS)


def test_weights_that_came_without_a_classifier_can_start_a_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "timm.eva02_tiny_patch14_224"
    offline_hub(tmp_path, monkeypatch)
    weights = dict(timm.create_model(name.removeprefix("timm."), num_classes=0).state_dict())
    hub_file(tmp_path, name, weights)
    student = networks.student_network(CLASSIFICATION, Student(architecture=name, weights="published"), FACTS, tmp_path)
    stored = student.body.state_dict()
    assert stored.keys() - weights.keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(stored[key], value) for key, value in weights.items())
    with pytest.raises(Impossible, match="the teacher gives 0 classes, the data set has 4; give teach"):
        networks.teacher_network(CLASSIFICATION, Teacher(architecture=name, weights="published"), FACTS, tmp_path)


def test_a_method_s_own_network_may_be_of_any_architecture(tmp_path: Path) -> None:
    ended = run(recipe_of({"name": "residual_kd", "assistant": "resnet14"}, epochs=1), tmp_path / "run")
    wrapper = json.loads((ended.directory / "artifacts/student.json").read_text())["wrapper"]
    assert wrapper["fields"]["assistant"] == "resnet14"
