"""Every classification network of timm, under its own name: `timm.resnet18`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from retort.architecture import Architecture
from retort.input import Input

if TYPE_CHECKING:
    from torch import nn

    from retort.network import Layout, Network

PREFIX = "timm."
WEIGHTS_FILE = "model.safetensors"
"""Name of the weights in each of timm's repositories of the Hugging Face hub."""
CUT_SHORT = "Consistency check failed"
"""Start of the hub client's error that has no class of its own."""
PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


class Timm(Architecture):
    """timm's networks, with the published weights that timm names first.

    Stages are found by running a network once: the last block of each resolution before the map is averaged, and of a
    network of tokens those that stand for places of the image. A network that reads images of one size only has all
    images brought to it. Weights are read from safetensors files alone.
    """

    name: ClassVar[str] = "timm"
    source: ClassVar[str] = (
        "Wightman and contributors: PyTorch Image Models, 2019, https://github.com/huggingface/pytorch-image-models, "
        "Apache-2.0"
    )

    def names(self) -> tuple[str, ...]:
        return tuple(self.cards())

    def installed(self) -> tuple[str, ...]:
        import timm

        return tuple(PREFIX + name for name in timm.list_models())

    def image_size(self, architecture: str) -> int:
        return int(_config(architecture).input_size[-1])

    def build(self, architecture: str, classes: int) -> Network:
        from retort.network import Network

        layout, one_size = _read(architecture)
        size = self.image_size(architecture) if one_size else 0
        return Network(_body(architecture, classes), layout, Input(size=size, **PLAIN))

    def fetch(self, architecture: str) -> None:
        _weights(architecture, _repository(architecture))

    def published(self, architecture: str) -> tuple[Network, tuple[str, ...]]:
        from retort.network import Network

        config = _config(architecture)
        layout, _ = _read(architecture)
        body = _body(architecture, config.num_classes, _weights(architecture, _repository(architecture)))
        image = Input(size=config.input_size[-1], mean=config.mean, std=config.std)
        return Network(body, layout, image), _class_names(config)


def _repository(architecture: str) -> str:
    """The address of its weights on the hub. Raises LookupError."""
    repository: str = _config(architecture).hf_hub_id
    if not repository:
        raise LookupError(f"{architecture} has no published weights")
    return repository


def _config(architecture: str) -> Any:
    """timm's configuration of a network and of the weights that it names first. Raises LookupError."""
    import timm
    from timm.models import get_pretrained_cfg, is_model

    name = architecture.removeprefix(PREFIX)
    if not is_model(name):
        raise LookupError(f"the installed timm, {timm.__version__}, has no network {name!r}")
    return get_pretrained_cfg(name)


def _body(architecture: str, classes: int, weights: str | None = None) -> nn.Module:
    """A network of timm; `weights` is the file that it reads. Raises LookupError when that does not fit it."""
    import timm
    from safetensors import SafetensorError

    name = architecture.removeprefix(PREFIX)
    overlay = {"file": weights} if weights else None
    try:
        body: nn.Module = timm.create_model(
            name, pretrained=weights is not None, pretrained_cfg_overlay=overlay, num_classes=classes
        )
    except (SafetensorError, RuntimeError) as error:
        if weights is None:
            raise
        raise LookupError(f"the weights in {weights} do not fit {architecture}: {_in_one_line(error)}") from error
    return body


@cache
def _read(architecture: str) -> tuple[Layout, bool]:
    """Layout of the network, and true if it reads images of one size only; the number of classes changes neither."""
    import torch

    from retort.architectures._survey import CLASSES, Hollow, Unreadable, reads, survey

    config = _config(architecture)
    height, size = config.input_size[1:]
    if height != size:
        raise Unreadable(f"it reads images of {height} by {size} pixels, which are not square")
    with Hollow(), torch.random.fork_rng(devices=[]):
        twin = _body(architecture, CLASSES).to("meta")
    layout = survey(twin, size)
    others = size + 20, size // 2
    one_size = config.fixed_input_size or not all(reads(twin, other, modes=(False,)) for other in others)
    return layout, one_size


def _weights(architecture: str, repository: str) -> str:
    """The file of published weights, from the hub's cache or else downloaded. Raises LookupError, or Unreachable."""
    from httpx2 import HTTPError
    from huggingface_hub import hf_hub_download

    from retort.download import Unreachable

    name, _, revision = repository.partition("@")
    try:
        return hf_hub_download(name, WEIGHTS_FILE, revision=revision or None)
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        kind = Unreachable if _through_the_network(error) else LookupError
        raise kind(
            f"the published weights of {architecture} cannot be had: no {WEIGHTS_FILE} of {repository} from the "
            f"Hugging Face hub: {_in_one_line(error)}"
        ) from error


def _through_the_network(error: BaseException) -> bool:
    """True if the hub or the way to it failed, false if the request was wrong."""
    from httpx2 import TransportError
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from retort.download import is_passing

    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return is_passing(error.response.status_code)
    # Xet, the hub's own way of transport, has no class for it.
    return isinstance(error, TransportError | RuntimeError) or CUT_SHORT in str(error)


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _class_names(config: Any) -> tuple[str, ...]:
    """ImageNet's names where the weights were trained on it or on a part of it; else numbers."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(config.to_dict())
    if subset is None:
        return tuple(map(str, range(config.num_classes)))
    info = ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(config.num_classes))
