"""torchvision's networks: all of them are here, as torchvision counts them, and with its weights."""

import socket
from pathlib import Path

import pytest
import torch
from torchvision import models

from retort.architectures import CARDS, FAMILIES
from retort.download import Unreachable
from tests.retort.architectures.published import torchvision_checkpoint

FAMILY = FAMILIES["torchvision"]
AUXILIARY = {"torchvision.inception_v3": 3_326_696}
"""Numbers of auxiliary heads that torchvision counts and that we leave out."""
SMALL = "torchvision.shufflenet_v2_x0_5"


def test_every_classification_network_is_in_the_catalogue() -> None:
    assert FAMILY.names() == FAMILY.installed()
    assert len(FAMILY.names()) >= 80


def test_parameters_and_multiply_adds_are_what_torchvision_publishes() -> None:
    for architecture in FAMILY.names():
        card = CARDS[architecture]
        published = models.get_model_weights(architecture.removeprefix("torchvision.")).DEFAULT.meta
        assert card.parameters(1000) + AUXILIARY.get(architecture, 0) == published["num_params"], architecture
        if card.head != "other":  # squeezenet's classifier is a convolution, run at each position
            counted = (card.multiply_adds + card.embedding * 1000) / 1e9
            assert counted == pytest.approx(published["_ops"], rel=0.01, abs=0.001), architecture


def test_a_fixed_network_resizes_images_to_its_size() -> None:
    network = FAMILY.build("torchvision.vit_b_32", 3).eval()
    assert network.image.size == 224
    with torch.no_grad():
        assert network(torch.rand(1, 3, 8, 8)).shape == (1, 3)


def test_auxiliary_heads_are_left_out() -> None:
    network = FAMILY.build("torchvision.googlenet", 3).train()
    assert not [name for name in network.state_dict() if "aux" in name.lower()]
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 3)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torch's cache of checkpoints, empty."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_published_weights_come_with_their_input_and_classes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torchvision_checkpoint(cache.parents[1], SMALL, monkeypatch)
    network, names = FAMILY.published(SMALL)
    assert (len(names), names[0]) == (1000, "tench")
    assert network.image.size == 224
    assert network.image.mean == (0.485, 0.456, 0.406)
    assert network.image.std == (0.229, 0.224, 0.225)
    assert all(torch.equal(value, weights[name]) for name, value in network.body.state_dict().items())


def test_a_checkpoint_with_another_digest_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision_checkpoint(cache.parents[1], SMALL, monkeypatch)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(LookupError, match=rf"the published weights of {SMALL} cannot be had .*sha256"):
        FAMILY.published(SMALL)


def test_without_a_network_published_weights_are_an_error_of_one_sentence(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    published = models.get_model_weights(SMALL.removeprefix("torchvision.")).DEFAULT.value
    monkeypatch.setattr(published, "url", f"http://127.0.0.1:{port}/{SMALL}-01234567.pth")
    with pytest.raises(Unreachable, match="cannot be had from http") as raised:
        FAMILY.published(SMALL)
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().out == ""
    assert not list(cache.iterdir())


def test_networks_of_ours_have_no_published_weights() -> None:
    with pytest.raises(LookupError, match="resnet8 has no published weights"):
        FAMILIES["cifar_resnet"].published("resnet8")
