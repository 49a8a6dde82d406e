"""timm's networks: all that can be read are here, with its weights where they are safetensors."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants

from retort.architectures import CARDS, FAMILIES
from retort.architectures._survey import Unreadable
from retort.download import Unreachable
from retort.engine.cards import cards_of, find_head, measure
from tests.retort.architectures.published import Weights, hub_file, offline_hub

FAMILY = FAMILIES["timm"]
TINY = "timm.test_vit"
"""160 pixels, mean and deviation 0.5, 0.4 million numbers."""


def test_nearly_every_network_of_the_installed_timm_is_in_the_catalogue() -> None:
    installed, known = set(FAMILY.installed()), set(FAMILY.names())
    assert known <= installed
    assert len(known) >= 0.95 * len(installed)


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("timm.pit_ti_224", "its last square map is that of patch_embed, long before its logits"),
        ("timm.resnet50_clip", "what goes into its classifier is not one vector for an image"),
        ("timm.vit_5b_patch16_sapiens2", "it reads images of 1024 by 768 pixels, which are not square"),
    ],
)
def test_what_cannot_be_read_is_left_out_with_a_reason(
    architecture: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert architecture not in CARDS
    with pytest.raises(Unreadable, match=reason):
        measure(FAMILY, architecture)
    assert cards_of(FAMILY, (architecture,)) == {}
    assert capsys.readouterr().err == f"{architecture} is left out: {reason}\n"


@pytest.mark.parametrize("architecture", ["timm.resnet18", "timm.vgg11_bn", "timm.densenet121", "timm.convnext_tiny"])
def test_cards_of_a_network_that_torchvision_has_too_agree(architecture: str) -> None:
    ours, theirs = CARDS[architecture], CARDS[architecture.replace("timm", "torchvision")]
    assert ours.body_parameters == theirs.body_parameters
    assert ours.embedding == theirs.embedding
    assert ours.stages[-1] == theirs.stages[-1]


@pytest.mark.parametrize(
    ("architecture", "classes"), [("timm.test_resnet", 3), ("timm.levit_128s", 5), ("timm.crossvit_tiny_240", 11)]
)
def test_parameters_are_counted_for_every_head(architecture: str, classes: int) -> None:
    body = timm.create_model(architecture.removeprefix("timm."), num_classes=classes)
    assert CARDS[architecture].parameters(classes) == sum(p.numel() for p in body.parameters())


def test_logits_of_two_heads_are_their_mean() -> None:
    network = FAMILY.build("timm.deit_tiny_distilled_patch16_224", 4).eval()
    assert network.layout.further_classifiers == ("head",)
    with torch.no_grad():
        outputs = network.read(torch.rand(2, 3, 32, 32), ("embedding", "maps"))
        second = network.classifier(outputs.embedding)
    assert CARDS["timm.deit_tiny_distilled_patch16_224"].head == "other"
    assert outputs.logits.shape == second.shape == (2, 4)
    # Tokens for the class and for distillation stand before those of the image.
    assert outputs.maps[0].shape == (2, 192, 14, 14)


def test_the_map_of_tokens_is_that_of_the_images_places() -> None:
    network = FAMILY.build(TINY, 3).eval()
    images = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        (map_NCHW,) = network.read(images, ("maps",)).maps
        tokens = network.body.forward_features(network.normalise(images))
    assert torch.equal(map_NCHW[0, :, 2, 3], tokens[0, network.body.num_prefix_tokens + 2 * 10 + 3])


def test_a_batch_norm_between_mean_and_classifier_is_seen_though_a_fresh_one_changes_nothing() -> None:
    assert find_head(FAMILY, "timm.efficientvit_m0") == CARDS["timm.efficientvit_m0"].head == "linear"


def test_a_name_that_timm_lacks_is_a_sentence() -> None:
    with pytest.raises(LookupError, match=rf"the installed timm, {timm.__version__}, has no network 'resnet18x'"):
        FAMILY.build("timm.resnet18x", 3)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty and without a connection."""
    offline_hub(tmp_path, monkeypatch)
    return tmp_path


def weights_of(architecture: str, classes: int = 1000) -> Weights:
    torch.manual_seed(5)
    return dict(timm.create_model(architecture.removeprefix("timm."), num_classes=classes).state_dict())


def test_published_weights_come_with_their_input_and_classes(hub: Path) -> None:
    weights = weights_of(TINY)
    hub_file(hub, TINY, weights)
    network, names = FAMILY.published(TINY)
    assert (len(names), names[0]) == (1000, "tench, Tinca tinca")
    assert (network.image.size, network.image.mean, network.image.std) == (160, (0.5,) * 3, (0.5,) * 3)
    assert weights.keys() == network.body.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in network.body.state_dict().items())


def test_a_pickle_is_not_read(hub: Path) -> None:
    hub_file(hub, TINY, weights_of(TINY), name="pytorch_model.bin")
    with pytest.raises(LookupError, match=r"cannot be had: no model\.safetensors of timm/test_vit\.r160_in1k"):
        FAMILY.published(TINY)


def test_a_pickle_under_the_name_of_safetensors_is_refused(hub: Path) -> None:
    file = hub_file(hub, TINY, weights_of(TINY))
    torch.save(weights_of(TINY), file)
    with pytest.raises(LookupError, match=r"model\.safetensors do not fit timm\.test_vit: .*header"):
        FAMILY.published(TINY)


def test_weights_of_another_network_are_refused_in_one_sentence(hub: Path) -> None:
    hub_file(hub, TINY, weights_of("timm.test_resnet"))
    with pytest.raises(LookupError, match=r"model\.safetensors do not fit timm\.test_vit: ") as raised:
        FAMILY.published(TINY)
    assert "\n" not in str(raised.value)


def test_without_a_connection_published_weights_are_an_error_of_one_sentence(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LookupError, match=r"the published weights of timm\.test_vit cannot be had") as raised:
        FAMILY.published(TINY)
    assert "\n" not in str(raised.value)
    assert capsys.readouterr().out == ""


class _Answers(BaseHTTPRequestHandler):
    """Gives the status that the first part of a path names."""

    def do_HEAD(self) -> None:
        self.send_error(int(self.path.split("/")[1]))

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "kind"), [(403, LookupError), (404, LookupError), (503, Unreachable), (None, Unreachable)]
)
def test_a_hub_that_refuses_is_distinguished_from_one_that_does_not_answer(
    hub: Path, monkeypatch: pytest.MonkeyPatch, status: int | None, kind: type[Exception]
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}/{status}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        if status is None:
            server.shutdown()
            server.server_close()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/{revision}/{filename}")
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's client waits between its attempts
        with pytest.raises(kind, match=r"the published weights of timm\.test_vit cannot be had") as raised:
            FAMILY.published(TINY)
        server.shutdown()
        thread.join()
    assert "\n" not in str(raised.value)


def test_a_network_without_published_weights_says_so() -> None:
    with pytest.raises(LookupError, match="test_mambaout has no published weights"):
        FAMILY.published("timm.test_mambaout")
