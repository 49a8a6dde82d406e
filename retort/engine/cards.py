"""Measure architectures: `python -m retort.engine.cards [family ...]` writes retort/architectures/cards/ anew."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from math import log2

import torch
from torch import Tensor, nn

from retort.architecture import CARDS, Architecture, Card, Head, Stage
from retort.architectures import ARCHITECTURES, FAMILIES
from retort.architectures._survey import Hollow, Unreadable, reads, run
from retort.network import Network

HeadKind = tuple[object, ...]
"""Equal for networks with a head of one kind."""
CLASSES = 10
"""Classes of the measured networks; nothing on a card depends on it."""
POOLING = ("global_pool", "pool_type")
"""Attributes of timm's networks that name their pooling."""
SIZES = (8, 16, 32, 64, 75, 96, 128, 160, 192, 224, 256)
"""Sides of images, in pixels, tried for the smallest one that a network reads; 75 is Inception's."""


def card_of(architecture: str) -> Card:
    """The card of an architecture without a committed one. Raises Unreadable."""
    family = ARCHITECTURES[architecture]
    card, _ = measure(family, architecture)
    return card.model_copy(update={"head": find_head(family, architecture)})


def cards_of(family: Architecture, names: tuple[str, ...]) -> dict[str, Card]:
    """The cards of some architectures of a family; those that cannot be read are left out and named on standard error.

    The kind of a head needs real numbers: they are computed once for all heads built alike, with the smallest network.
    """
    measured: dict[str, tuple[Card, HeadKind]] = {}
    for name in names:
        try:
            measured[name] = measure(family, name)
        except Unreadable as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    return with_heads(family, measured)


def with_heads(family: Architecture, measured: dict[str, tuple[Card, HeadKind]]) -> dict[str, Card]:
    """The measured cards, completed with their heads."""
    smallest: dict[HeadKind, Card] = {}
    for card, kind in sorted(measured.values(), key=lambda one: one[0].body_parameters):
        smallest.setdefault(kind, card)
    heads = {kind: find_head(family, card.architecture) for kind, card in smallest.items()}
    return {name: card.model_copy(update={"head": heads[kind]}) for name, (card, kind) in measured.items()}


def measure(family: Architecture, architecture: str) -> tuple[Card, HeadKind]:
    """A card without its head, and the kind of its head. Raises Unreadable."""
    network = _hollow(family, architecture)
    return _measure(architecture, family, network), _built(network, family.image_size(architecture))


def _built(network: Network, size: int) -> HeadKind:
    """The modules that run behind the last map, the body last: they decide how logits come from it."""
    names = [name for name, _ in run(network.body, size)]
    behind = names[len(names) - names[::-1].index(network.layout.stages[-1]) :]
    modules = map(network.body.get_submodule, behind)
    return tuple((type(m), *(str(getattr(m, name, "")) for name in POOLING)) for m in modules)


def _measure(architecture: str, family: Architecture, network: Network) -> Card:
    from torch.utils.flop_counter import FlopCounterMode

    size, layout = family.image_size(architecture), network.layout
    network.eval()
    # With gradients on; else attention is one operation that is not counted.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        outputs = network.read(_images(size), ("embedding", "maps"))
    assert outputs.embedding is not None
    if outputs.embedding.dim() != 2:
        raise Unreadable("what goes into its classifier is not one vector for an image")
    own, further = _numbers(network, (layout.classifier,)), _numbers(network, layout.further_classifiers)
    counts = counter.get_flop_counts()
    in_classifiers = [
        counts.get(f"Network.body.{name}", {}) for name in (layout.classifier, *layout.further_classifiers)
    ]
    operations = counter.get_total_flops() - sum(sum(count.values()) for count in in_classifiers)
    return Card(
        architecture=architecture,
        family=family.name,
        stages=tuple(_stages(outputs.maps, size)),
        embedding=outputs.embedding.shape[1],
        head="other",
        preactivations=bool(layout.activations),
        norms=bool(layout.norms),
        body_parameters=network.parameter_count() - own - further,
        image_size=size,
        multiply_adds=operations // 2 // len(outputs.logits),
        smallest_image=_smallest(network),
        classifier_bias=network.classifier.bias is not None,
        further_classifiers=further // CLASSES,
    )


def _numbers(network: Network, classifiers: tuple[str, ...]) -> int:
    return sum(p.numel() for name in classifiers for p in network.body.get_submodule(name).parameters())


def find_head(family: Architecture, architecture: str) -> Head:
    """The head of a network, found by running it on real images with random weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = family.build(architecture, CLASSES).eval()
        for tensor in network.body.state_dict().values():
            # A fresh batch norm changes nothing, a trained one does.
            if tensor.dim() == 1 and tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) / 5)
        size = family.image_size(architecture)
        outputs = network.read(torch.rand(2, 3, size, size), ("embedding", "maps"))
    classifier, embedding_ND = network.classifier, outputs.embedding
    assert embedding_ND is not None
    if not isinstance(classifier, nn.Linear) or not _close(classifier(embedding_ND), outputs.logits):
        return "other"
    means_NC = outputs.maps[-1].mean((2, 3))
    return "pool_linear" if means_NC.shape == embedding_ND.shape and _close(means_NC, embedding_ND) else "linear"


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= 1e-4 * b.norm())


def _hollow(family: Architecture, architecture: str) -> Network:
    """The network on torch's meta device, where no number is computed."""
    with Hollow(), torch.random.fork_rng(devices=[]):
        return family.build(architecture, CLASSES).to("meta")


def _images(size: int) -> Tensor:
    return torch.empty(2, 3, size, size, device="meta")


def _stages(maps: tuple[Tensor, ...], size: int) -> Iterator[Stage]:
    for map_NCHW in maps:
        # Unpadded convolutions lose a border: 299 pixels give maps of 147, which is still every second pixel.
        yield Stage(channels=map_NCHW.shape[1], stride=2 ** round(log2(size / map_NCHW.shape[3])))


def _smallest(network: Network) -> int:
    size = next((size for size in SIZES if reads(network, size)), None)
    if size is None:
        raise Unreadable(f"it reads images of none of the sizes {', '.join(map(str, SIZES))}")
    return size


def write(family: Architecture) -> None:
    """Measure a family and write its cards, a line each."""
    cards = cards_of(family, family.installed())
    lines = (f"{json.dumps(name)}: {json.dumps(card.model_dump(mode='json'))}" for name, card in cards.items())
    (CARDS / f"{family.name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        write(FAMILIES[name])
