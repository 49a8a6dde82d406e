"""Measure architectures: `python -m worker.engine.cards [family ...]` writes worker/architectures/cards/ anew."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from math import log2

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from worker.architecture import CARDS, Architecture, Card, Head, Stage
from worker.architectures import ARCHITECTURES, FAMILIES
from worker.architectures._survey import Hollow, run
from worker.network import Network

CLASSES = 10
"""Of the networks that are measured; nothing on a card depends on it."""
POOLING = ("global_pool", "pool_type")
"""Attributes by which timm's networks say how they pool."""
SIZES = (8, 16, 32, 64, 75, 96, 128, 160, 192, 224, 256)
"""Sides of images that are tried for the smallest one that a network reads; 75 is Inception's."""


def card_of(architecture: str) -> Card:
    """The card of an architecture for which none was committed."""
    family = ARCHITECTURES[architecture]
    return _measure(architecture, family, _hollow(family, architecture), find_head(family, architecture))


def cards_of(family: Architecture, names: tuple[str, ...]) -> dict[str, Card]:
    """The cards of some architectures of a family.

    Kinds of heads need real numbers, which are computed for the smallest network of all whose heads are built alike.
    """
    hollow = {name: _hollow(family, name) for name in names}
    built = {name: _built(network, family.image_size(name)) for name, network in hollow.items()}
    smallest: dict[tuple[object, ...], str] = {}
    for name in sorted(names, key=lambda name: hollow[name].parameter_count()):
        smallest.setdefault(built[name], name)
    heads = {kind: find_head(family, name) for kind, name in smallest.items()}
    return {name: _measure(name, family, network, heads[built[name]]) for name, network in hollow.items()}


def _built(network: Network, size: int) -> tuple[object, ...]:
    """What decides how logits come from the last map: the body's class, and all modules that run behind that map."""
    names = [name for name, _ in run(network.body, size)]
    behind = names[len(names) - names[::-1].index(network.layout.stages[-1]) :]
    modules = [network.body, *map(network.body.get_submodule, behind)]
    return tuple((type(m), *(str(getattr(m, name, "")) for name in POOLING)) for m in modules)


def _measure(architecture: str, family: Architecture, network: Network, head: Head) -> Card:
    size = family.image_size(architecture)
    network.eval()
    # With gradients on, or else attention would be one operation that nobody counts.
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        outputs = network.read(_images(size), ("embedding", "maps"))
    assert outputs.embedding is not None
    in_classifier = counter.get_flop_counts().get(f"Network.body.{network.layout.classifier}", {})
    operations = counter.get_total_flops() - sum(in_classifier.values())
    return Card(
        architecture=architecture,
        family=family.name,
        stages=tuple(_stages(outputs.maps, size)),
        embedding=outputs.embedding.shape[1],
        head=head,
        preactivations=bool(network.layout.activations),
        norms=bool(network.layout.norms),
        body_parameters=network.parameter_count() - sum(p.numel() for p in network.classifier.parameters()),
        image_size=size,
        multiply_adds=operations // 2 // len(outputs.logits),
        smallest_image=next(size for size in SIZES if _reads(network, size)),
        classifier_bias=network.classifier.bias is not None,
    )


def find_head(family: Architecture, architecture: str) -> Head:
    """What the head of a network is, by computing real images; its weights are random."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = family.build(architecture, CLASSES).eval()
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


def _reads(network: Network, size: int) -> bool:
    """Whether images of that size pass through, in training and after it."""
    try:
        for training in (True, False):
            network.train(training)(_images(size))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def write(family: Architecture) -> None:
    """Measure a family and write its cards, a line each."""
    names = family.installed()
    cards = cards_of(family, names)
    lines = (f"{json.dumps(name)}: {json.dumps(cards[name].model_dump(mode='json'))}" for name in names)
    (CARDS / f"{family.name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        write(FAMILIES[name])
