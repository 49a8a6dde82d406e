"""A network around a body of any make."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from retort.architectures import ARCHITECTURES
from retort.input import Input
from retort.network import Layout, Network

PLAIN = Input(size=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Toy(nn.Module):
    """Two stages; what `inner` gives is changed in place by the activation after it."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.outer = nn.Conv2d(4, 5, 3, stride=2, padding=1)
        self.last = nn.ReLU(inplace=True)
        self.head = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, classes))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.last(self.outer(self.relu(self.inner(x)))).mean((2, 3)))
        return out


LAYOUT = Layout(stages=("inner", "last"), classifier="head.1", activations=("relu", "last"))


def network() -> Network:
    torch.manual_seed(0)
    return Network(Toy(), LAYOUT).eval()


def test_no_more_is_kept_than_what_is_asked_for() -> None:
    outputs = network().read(torch.rand(2, 3, 8, 8))
    assert outputs.embedding is None
    assert outputs.maps == outputs.preactivations == ()
    assert outputs.logits.shape == (2, 3)


def test_what_was_read_is_not_changed_by_a_body_that_works_in_place() -> None:
    built, images = network(), torch.rand(2, 3, 8, 8)
    outputs = built.read(images, ("maps", "preactivations", "embedding"))
    assert torch.equal(outputs.maps[0], built.body.get_submodule("inner")(images))
    assert outputs.maps[0].min() < 0
    assert torch.equal(outputs.preactivations[1].relu(), outputs.maps[1])
    assert outputs.embedding is not None
    assert outputs.embedding.shape == (2, 6)
    torch.stack([m.sum() for m in outputs.maps]).sum().backward()
    assert all(p.grad is not None for p in built.body.get_submodule("outer").parameters())


def test_a_read_that_fails_leaves_nothing_behind() -> None:
    built = network()
    with pytest.raises(RuntimeError):
        built.read(torch.rand(2, 4, 8, 8), ("maps",))
    assert built._seen == {}
    assert built._wanted == frozenset()


def test_images_are_normalised_and_resized_by_the_network() -> None:
    built, images = network(), torch.rand(2, 3, 8, 8)
    built.set_input(Input(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    by_hand = torch.stack([(images[:, c] - m) / s for c, (m, s) in enumerate([(0.1, 0.5), (0.2, 0.6), (0.3, 0.7)])], 1)
    assert torch.allclose(built.normalise(images), by_hand)
    built.set_input(replace_size(PLAIN, 4))
    flat = torch.full((1, 3, 16, 16), 0.25)
    assert torch.allclose(built.normalise(flat), torch.full((1, 3, 4, 4), 0.25))


def replace_size(image: Input, size: int) -> Input:
    return image.model_copy(update={"size": size})


def test_a_copy_reads_itself_and_shares_nothing() -> None:
    built, images = network(), torch.rand(2, 3, 8, 8)
    built.set_input(Input(size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    copy = built.copy()
    assert not copy.training
    assert torch.equal(copy.read(images, ("maps",)).maps[1], built.read(images, ("maps",)).maps[1])
    with torch.no_grad():
        copy.body.get_submodule("outer").weight.zero_()  # type: ignore[operator]
    changed, unchanged = copy.read(images, ("embedding",)), built.read(images, ("embedding",))
    assert changed.embedding is not None
    assert unchanged.embedding is not None
    assert not torch.equal(changed.embedding, unchanged.embedding)


def test_another_classifier_keeps_the_embedding_before_it() -> None:
    built, images = network(), torch.rand(2, 3, 8, 8)
    before = built.read(images, ("embedding",)).embedding
    built.replace_classifier(nn.Linear(6, 9))
    outputs = built.read(images, ("embedding",))
    assert outputs.logits.shape == (2, 9)
    assert before is not None
    assert outputs.embedding is not None
    assert torch.equal(outputs.embedding, before)


def test_another_classifier_may_move_the_embedding_into_itself() -> None:
    built, images = network(), torch.rand(2, 3, 8, 8)
    head = nn.Sequential()
    head.add_module("project", nn.Linear(6, 11))
    head.add_module("score", nn.Linear(11, 3))
    built.replace_classifier(head, reads="score")
    embedding = built.read(images, ("embedding",)).embedding
    assert embedding is not None
    assert embedding.shape == (2, 11)
    assert built.classifier is head.get_submodule("score")


def test_parameters_are_counted_frozen_or_not_and_running_statistics_are_not() -> None:
    built = Network(
        nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3)),
        Layout(stages=("1",), classifier="3"),
    )
    built.body.get_submodule("0").requires_grad_(False)
    assert built.parameter_count() == (6 + 2) + 4 + (6 + 3)


class Handing(nn.Module):
    """A stage in another form."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, map_NCHW: Tensor) -> Tensor:
        if self.form == "channels_last":
            return map_NCHW.permute(0, 2, 3, 1)
        tokens = map_NCHW.flatten(2).transpose(1, 2)
        return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)


class Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1, -2).mean(1)


@pytest.mark.parametrize("form", ["channels_last", "tokens"])
def test_maps_in_other_forms_come_with_their_channels_first(form: str) -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 2, 2), Handing(form), Mean(), nn.Linear(4, 2))
    layout = Layout(stages=("0", "1"), classifier="3", forms=("channels_first", form))  # type: ignore[arg-type]
    outputs = Network(body, layout).read(torch.rand(2, 3, 8, 8), ("maps",))
    assert torch.equal(outputs.maps[0], outputs.maps[1])


def test_a_classifier_that_is_a_convolution_reads_the_mean_over_space() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    outputs = Network(body, Layout(stages=("0",), classifier="1")).read(torch.rand(2, 3, 8, 8), ("maps", "embedding"))
    assert outputs.embedding is not None
    assert torch.equal(outputs.embedding, outputs.maps[0].mean((2, 3)))


def test_a_module_of_the_layout_must_exist() -> None:
    with pytest.raises(AttributeError, match="missing"):
        Network(Toy(), replace(LAYOUT, stages=("missing",)))


@pytest.mark.parametrize("architecture", ["resnet8", "torchvision.squeezenet1_1"])
def test_logits_are_float32_where_the_rest_is_not(architecture: str) -> None:
    network = ARCHITECTURES[architecture].build(architecture, 10).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = network.copy().read(images, ("embedding",))
    assert outputs.embedding.dtype == torch.bfloat16
    assert outputs.logits.dtype == torch.float32
    # Of these not all are numbers of bfloat16, as they would be had the classifier computed in it.
    assert not torch.equal(outputs.logits, outputs.logits.bfloat16().float())
    if architecture == "resnet8":
        assert torch.equal(outputs.logits, network.classifier(outputs.embedding.float()))


def test_a_classifier_that_a_pass_changes_is_run_once() -> None:
    network = ARCHITECTURES["resnet8"].build("resnet8", 10).train()
    norm = nn.BatchNorm1d(64)
    network.replace_classifier(nn.Sequential(norm, nn.Linear(64, 10)))
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.rand(4, 3, 32, 32)).dtype == torch.bfloat16
    assert norm.num_batches_tracked == 1
