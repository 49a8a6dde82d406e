"""Every classification network of torchvision, under its own name: `torchvision.resnet18`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from retort.architecture import Architecture
from retort.input import Input

if TYPE_CHECKING:
    from torch import nn

    from retort.network import Layout, Network

PREFIX = "torchvision."
WITHOUT_HELPERS = {"aux_logits": False, "init_weights": True}
OPTIONS: dict[str, dict[str, Any]] = {"googlenet": WITHOUT_HELPERS, "inception_v3": WITHOUT_HELPERS}
"""Arguments for these two: no auxiliary heads, and the published initialisation."""
HALVES = (0.5, 0.5, 0.5)
"""Mean and deviation with which the weights of those two were trained; torchvision converts inside the network."""


class Torchvision(Architecture):
    """torchvision's classification networks, with their published weights (ImageNet, 1,000 classes).

    Stages are found by running a network once: the last block of each resolution before the map is averaged, and of a
    ViT the encoder's tokens. Auxiliary heads are left out.
    """

    name: ClassVar[str] = "torchvision"
    source: ClassVar[str] = (
        "torchvision maintainers and contributors: TorchVision, 2016, https://github.com/pytorch/vision, BSD-3-Clause"
    )

    def names(self) -> tuple[str, ...]:
        return tuple(self.cards())

    def installed(self) -> tuple[str, ...]:
        from torchvision import models

        return tuple(PREFIX + name for name in models.list_models(module=models))

    def image_size(self, architecture: str) -> int:
        return int(_weights(architecture).transforms().crop_size[0])

    def build(self, architecture: str, classes: int) -> Network:
        from retort.network import Network

        body = _body(architecture, classes)
        size = self.image_size(architecture) if _reads_one_size(body) else 0
        return Network(body, _layout(architecture), Input(size=size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))

    def fetch(self, architecture: str) -> None:
        from retort.architectures._checkpoint import fetch

        url = _weights(architecture).url
        with _telling(architecture, url):
            fetch(url)

    def published(self, architecture: str) -> tuple[Network, tuple[str, ...]]:
        from retort.network import Network

        weights = _weights(architecture)
        names = tuple(weights.meta["categories"])
        body = _body(architecture, len(names))
        _load(body, architecture, weights.url)
        preset = weights.transforms()
        mean, std = (HALVES, HALVES) if architecture.removeprefix(PREFIX) in OPTIONS else (preset.mean, preset.std)
        image = Input(size=preset.crop_size[0], mean=tuple(mean), std=tuple(std))
        return Network(body, _layout(architecture), image), names


def _weights(architecture: str) -> Any:
    """The weights that torchvision recommends."""
    from torchvision import models

    return models.get_model_weights(architecture.removeprefix(PREFIX)).DEFAULT


def _body(architecture: str, classes: int) -> nn.Module:
    from torchvision import models

    name = architecture.removeprefix(PREFIX)
    options = dict(OPTIONS.get(name, {}))
    if name.startswith("vit_"):
        options["image_size"] = _weights(architecture).transforms().crop_size[0]
    body: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    return body


def _reads_one_size(body: nn.Module) -> bool:
    """True if the network's own numbers fix the image's size, which its class then takes as an argument."""
    from inspect import signature

    return not {"image_size", "input_size"}.isdisjoint(signature(type(body)).parameters)


@cache
def _layout(architecture: str) -> Layout:
    """Layout of the network; it is the same for every number of classes."""
    import torch

    from retort.architectures._survey import CLASSES, Hollow, survey

    with Hollow(), torch.random.fork_rng(devices=[]):
        twin = _body(architecture, CLASSES).to("meta")
    return survey(twin, _weights(architecture).transforms().crop_size[0])


def _load(body: nn.Module, architecture: str, url: str) -> None:
    """Load a checkpoint, from torch's cache or else downloaded. Raises LookupError, or Unreachable."""
    from retort.architectures._checkpoint import load

    with _telling(architecture, url):
        weights = load(url)
        # The files of googlenet and inception hold the auxiliary heads too, which the body lacks.
        body.load_state_dict({name: value for name, value in weights.items() if not name.lower().startswith("aux")})


@contextmanager
def _telling(architecture: str, url: str) -> Iterator[None]:
    """Make a LookupError, or Unreachable, of what keeps us from published weights."""
    from pickle import UnpicklingError

    from retort.download import Unreachable

    try:
        yield
    except (OSError, RuntimeError, ValueError, UnpicklingError, Unreachable) as error:
        kind = Unreachable if isinstance(error, Unreachable) else LookupError
        raise kind(f"the published weights of {architecture} cannot be had from {url}: {error}") from error
