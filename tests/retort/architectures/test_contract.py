"""The contract of every architecture: its card is true, it can be read, stored and copied."""

from math import log2
from typing import Any

import pytest
import torch

from retort.architectures import ARCHITECTURES, CARDS, FAMILIES
from retort.engine.cards import card_of, cards_of, find_head
from retort.input import Input
from retort.network import Network

MEASURED = ("timm", "torchvision")
"""Families that others build and that we survey."""
OWN = tuple(name for name, family in ARCHITECTURES.items() if family.name not in MEASURED)
FLEXIBLE = (
    *(f"torchvision.{name}" for name in ("resnet18", "squeezenet1_1", "mobilenet_v3_small", "densenet121", "swin_t")),
    *(f"timm.{name}" for name in ("test_resnet", "test_convnext", "test_efficientnet", "mobilenetv3_small_050")),
    *(f"timm.{name}" for name in ("regnetx_002", "repvit_m0_9", "ghostnet_050")),
)
FIXED = (
    "torchvision.vit_b_32",
    *(f"timm.{name}" for name in ("test_vit", "test_vit3", "test_maxvit", "vit_tiny_patch16_224", "levit_128s")),
    *(f"timm.{name}" for name in ("deit_tiny_distilled_patch16_224", "swin_tiny_patch4_window7_224")),
)
SAMPLE = FLEXIBLE + FIXED
"""One of torchvision's and timm's for each way to make a map, an embedding and logits; the latter read one size."""
FEW_OWN = (
    "mobilenet_v2_half",
    "resnet8",
    "resnet8x4",
    "resnet50_cifar",
    "shufflenet_v1",
    "shufflenet_v2",
    "vgg8",
    "wrn_16_1",
)
"""Of each family the smallest, and those with other blocks or widths; the others differ from them in depth alone."""
FEW_FLEXIBLE = ("torchvision.squeezenet1_1", "torchvision.mobilenet_v3_small", "timm.test_resnet", "timm.test_convnext")
FEW_FIXED = ("timm.test_vit", "timm.levit_128s", "timm.deit_tiny_distilled_patch16_224")
SUMS = ("wrn_", "mobilenet_v2_half")
"""Whose inner maps are sums that no activation follows, or only after the next batch norm."""
CLASSES = 7


def thinned(names: tuple[str, ...], few: tuple[str, ...]) -> list[Any]:
    """All of the names as parameters, those that are not among the few as long ones."""
    assert set(few) <= set(names)
    return [pytest.param(name, marks=() if name in few else pytest.mark.long) for name in names]


def build(architecture: str, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return ARCHITECTURES[architecture].build(architecture, CLASSES).eval()


@pytest.mark.parametrize("architecture", thinned(OWN + SAMPLE, FEW_OWN + FEW_FLEXIBLE + FEW_FIXED))
def test_the_card_agrees_with_the_network(architecture: str) -> None:
    card = CARDS[architecture]
    network = build(architecture)
    # Large enough that a lost border changes no stride; fixed networks bring it to their own size.
    side = network.image.size or max(32, 4 * max(stage.stride for stage in card.stages))
    with torch.no_grad():
        outputs = network.read(torch.rand(2, 3, side, side), ("embedding", "maps"))
    assert outputs.logits.shape == (2, CLASSES)
    strides = [2 ** round(log2(side / m.shape[3])) for m in outputs.maps]
    found = [(m.shape[1], stride) for m, stride in zip(outputs.maps, strides, strict=True)]
    assert found == [(stage.channels, stage.stride) for stage in card.stages]
    assert all(m.shape[2] == m.shape[3] for m in outputs.maps)
    assert outputs.embedding is not None
    assert outputs.embedding.shape == (2, card.embedding)
    assert bool(network.layout.activations) == card.preactivations
    assert network.parameter_count() == card.parameters(CLASSES)
    assert card.architecture == architecture
    assert ARCHITECTURES[architecture].name == card.family


@pytest.mark.parametrize("architecture", thinned(OWN + SAMPLE, FEW_OWN + FEW_FLEXIBLE + FEW_FIXED))
def test_maps_can_be_read_before_their_activation_where_the_card_says_so(architecture: str) -> None:
    network = build(architecture)
    side = max(16, CARDS[architecture].smallest_image)
    if not CARDS[architecture].preactivations:
        with pytest.raises(ValueError, match="cannot be read before their activation"):
            network.read(torch.rand(1, 3, side, side), ("preactivations",))
        return
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 1:  # a block may end in a norm that starts at zero: its sum has been activated
                parameter.add_(torch.randn_like(parameter) / 5)
        outputs = network.read(torch.rand(2, 3, side, side), ("maps", "preactivations"))
    assert [p.shape for p in outputs.preactivations] == [m.shape for m in outputs.maps]
    assert all(p.min() < 0 for p in outputs.preactivations)
    if not architecture.startswith(SUMS):
        pairs = zip(outputs.preactivations, outputs.maps, strict=True)
        assert all(torch.equal(before.relu(), after) for before, after in pairs)


@pytest.mark.parametrize("architecture", thinned(OWN + FLEXIBLE, FEW_OWN + FEW_FLEXIBLE))
def test_the_smallest_image_passes_in_training_too(architecture: str) -> None:
    network = build(architecture).train()
    side = (CARDS[architecture]).smallest_image
    logits = network(torch.rand(2, 3, side, side))
    logits.sum().backward()
    assert logits.shape == (2, CLASSES)


@pytest.mark.parametrize("architecture", thinned(OWN + FLEXIBLE, FEW_OWN + FEW_FLEXIBLE))
def test_weights_can_be_stored_and_loaded(architecture: str) -> None:
    first, second = build(architecture, 0), build(architecture, 1)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert not torch.equal(first(images), second(images))
        second.body.load_state_dict(first.body.state_dict())
        assert torch.equal(first(images), second(images))


@pytest.mark.parametrize("architecture", ["resnet8", "wrn_16_1", "torchvision.shufflenet_v2_x0_5"])
def test_the_same_seed_gives_the_same_network_however_often(architecture: str) -> None:
    first, second = build(architecture), build(architecture)
    after_first, after_second = torch.rand(1), torch.rand(1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    # What finding the layout draws must not reach the caller's generator, the first time or later.
    assert not torch.equal(after_first, after_second)


@pytest.mark.long
@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in MEASURED])
def test_our_own_cards_are_what_would_be_measured_now(family: str) -> None:
    committed = FAMILIES[family].cards()
    assert committed, "python -m retort.engine.cards writes them"
    assert cards_of(FAMILIES[family], FAMILIES[family].names()) == committed


@pytest.mark.long
@pytest.mark.parametrize("family", MEASURED)
def test_a_sample_of_others_cards_is_what_would_be_measured_now(family: str) -> None:
    sample = tuple(name for name in SAMPLE if ARCHITECTURES[name].name == family)
    assert cards_of(FAMILIES[family], sample) == {name: CARDS[name] for name in sample}


@pytest.mark.parametrize("family", sorted({ARCHITECTURES[name].name for name in (*FEW_OWN, *FEW_FLEXIBLE)}))
def test_a_few_cards_are_what_would_be_measured_now(family: str) -> None:
    few = tuple(name for name in (*FEW_OWN, *FEW_FLEXIBLE) if ARCHITECTURES[name].name == family)
    assert cards_of(FAMILIES[family], few) == {name: CARDS[name] for name in few}


def test_each_family_of_ours_has_all_its_cards_and_a_few_of_them_are_measured() -> None:
    families = {name: family for name, family in FAMILIES.items() if name not in MEASURED}
    assert {ARCHITECTURES[name].name for name in FEW_OWN} == families.keys()
    for name, family in families.items():
        assert set(family.cards()) == set(family.names()), f"python -m retort.engine.cards {name} writes them"


def test_an_architecture_without_a_card_is_measured_by_itself() -> None:
    assert card_of("resnet8") == CARDS["resnet8"]


@pytest.mark.parametrize("architecture", thinned(OWN, FEW_OWN))
def test_heads_are_what_the_cards_say(architecture: str) -> None:
    assert find_head(ARCHITECTURES[architecture], architecture) == CARDS[architecture].head != "other"


def test_input_is_carried_along() -> None:
    network = build("resnet8")
    network.set_input(Input(size=8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2)))
    assert network.copy().image == network.image
