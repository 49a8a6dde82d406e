"""A network whose stages, embedding and logits can be read, and that carries a description of its input.

Shapes: N images, K classes, D features, C H W map.
"""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from math import isqrt
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from retort.input import Input
from retort.outputs import Outputs

Form = Literal["channels_first", "channels_last", "tokens"]
"""Layout of a module's map: (N, C, H, W), (N, H, W, C), or (N, T + H W, C), square, with T tokens in front that
stand for no place; there are fewer of them than would make the square larger."""


CHANGED_BY_A_PASS = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Modules that would count or draw twice if they were run twice."""


@dataclass(frozen=True)
class Layout:
    """The places where a body is read, as names of its modules."""

    stages: tuple[str, ...]
    """Modules whose output is a stage's map, shallow to deep."""
    classifier: str
    """The module that turns the embedding into logits."""
    activations: tuple[str, ...] = ()
    """Modules whose input is a stage's map before its last activation; as many as stages, or none."""
    forms: tuple[Form, ...] = ()
    """Layout of each stage's map; none where all have their channels first."""
    norms: tuple[str, ...] = ()
    """Batch norms whose output, alone or added to a shortcut, is a stage's map before its last activation; as many as
    stages, or none."""
    further_classifiers: tuple[str, ...] = ()
    """Other modules that give logits, such as a distillation token's; the network gives the mean of all of them."""

    def form(self, stage: int) -> Form:
        return self.forms[stage] if self.forms else "channels_first"


class Network(nn.Module):
    """A body of any make, with its input's normalisation before it and hooks that read what is wanted.

    `state_dict()` of the body bears the names that its makers gave: a saved student loads into the plain class.
    Activations of the body no longer work in place, so that a tensor that was read stays as it was.
    """

    def __init__(self, body: nn.Module, layout: Layout, image: Input | None = None) -> None:
        super().__init__()
        self.body = body
        self.layout = layout
        self.image = image or Input(size=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        self._seen: dict[str, Tensor] = {}
        self._wanted: frozenset[str] = frozenset()
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self.set_input(self.image)
        for module in body.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]
        self.rewatch()

    def set_input(self, image: Input) -> None:
        """Describe the body's images; a size of 0 takes them as they come."""
        self.image = image
        for name, values in (("mean", image.mean), ("std", image.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @property
    def classifier(self) -> nn.Module:
        """The module that turns the embedding into logits."""
        return self.body.get_submodule(self.layout.classifier)

    def replace_classifier(self, module: nn.Module, *, reads: str = "") -> None:
        """Put another module where the classifier stands; `reads` names its module that the embedding goes into.

        With `reads` empty the embedding stays the input of the old classifier.
        """
        path, _, leaf = self.layout.classifier.rpartition(".")
        setattr(self.body.get_submodule(path), leaf, module)
        classifier = f"{self.layout.classifier}.{reads}" if reads else self.layout.classifier
        self.layout = replace(self.layout, classifier=classifier)
        self.rewatch()

    def extend_last_stage(self, module: nn.Module) -> None:
        """Put a module behind the last stage, so that the last map is read behind that module.

        The last map is then the module's output, and no map can be read before its activation any more. Raises
        ValueError where the stage hands out its map with the channels last.
        """
        if self.layout.form(-1) != "channels_first":
            raise ValueError("the network's last map does not have its channels first")
        *before, last = self.layout.stages
        path, _, leaf = last.rpartition(".")
        parent = self.body.get_submodule(path)
        setattr(parent, leaf, nn.Sequential(parent.get_submodule(leaf), module))

        def renamed(name: str) -> str:
            return name.replace(last, f"{last}.0", 1) if name.startswith(f"{last}.") else name

        self.layout = replace(self.layout, stages=(*map(renamed, before), last), activations=(), norms=())
        self.rewatch()

    def replace_body(self, body: nn.Module, layout: Layout) -> None:
        """Put another body in the place of this one, which may be a part of it."""
        self.body, self.layout = body, layout
        self.rewatch()

    def norm(self, stage: int) -> nn.modules.batchnorm._BatchNorm:
        """The batch norm before a stage's last activation. Raises ValueError where it is not known."""
        if not self.layout.norms:
            raise ValueError("the batch norms before the network's activations are not known")
        module = self.body.get_submodule(self.layout.norms[stage])
        assert isinstance(module, nn.modules.batchnorm._BatchNorm)
        return module

    def copy(self) -> Network:
        """Another network of the same weights, which shares nothing with this one."""
        return deepcopy(self)

    def normalise(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) RGB in [0, 1] to the body's own input."""
        size = self.image.size
        if size and images.shape[-1] != size:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        images = (images - mean) / std
        return images.flip(1) if self.image.channel_order == "bgr" else images

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) logits of (N, 3, H, W) RGB images in [0, 1]."""
        logits: Tensor = self.body(self.normalise(images))
        return logits

    def read(self, images: Tensor, wanted: Collection[str] = ()) -> Outputs:
        """Logits and other readings that are wanted: `embedding`, `maps`, `preactivations`, `class_maps`.

        Raises ValueError when preactivations are wanted of a network that has no module between them and the maps.
        """
        if "preactivations" in wanted and not self.layout.activations:
            raise ValueError("the network's maps cannot be read before their activation")
        # Class maps are made of the last map.
        self._wanted, self._seen = frozenset("maps" if read == "class_maps" else read for read in wanted), {}
        try:
            logits = self(images)
            seen = self._seen
        finally:
            self._wanted, self._seen = frozenset(), {}
        count, form = len(self.layout.stages), self.layout.form
        return Outputs(
            logits=logits,
            embedding=_as_vector(seen["embedding"]) if "embedding" in wanted else None,
            maps=tuple(_as_map(seen[f"maps.{i}"], form(i)) for i in range(count)) if "maps" in wanted else (),
            preactivations=(
                tuple(seen[f"preactivations.{i}"] for i in range(count)) if "preactivations" in wanted else ()
            ),
            class_maps=self._class_maps(_as_map(seen[f"maps.{count - 1}"], form(-1)))
            if "class_maps" in wanted
            else None,
        )

    def _class_maps(self, map_NCHW: Tensor) -> Tensor:
        """A linear classifier on the mean over space is the mean of that classifier at each position."""
        classifier = self.classifier
        assert isinstance(classifier, nn.Linear), "class maps need a linear classifier"
        return F.conv2d(map_NCHW, classifier.weight[:, :, None, None], classifier.bias)

    def parameter_count(self) -> int:
        """Numbers to store, frozen ones too; batch norm's running statistics are not counted."""
        return sum(p.numel() for p in self.parameters())

    def rewatch(self) -> None:
        """Put the hooks where the layout names modules, after modules of the body were replaced."""
        for hook in self._hooks:
            hook.remove()
        module = self.body.get_submodule
        # Partials of bound methods, unlike closures, are bound to the copy when a network is copied.
        take_input, take_output = self._take_input, self._take_output
        classifier = module(self.layout.classifier)
        self._hooks = [
            classifier.register_forward_pre_hook(partial(take_input, "embedding")),
            classifier.register_forward_hook(self._in_float32),
        ]
        for i, name in enumerate(self.layout.stages):
            self._hooks.append(module(name).register_forward_hook(partial(take_output, f"maps.{i}")))
        for i, name in enumerate(self.layout.activations):
            self._hooks.append(module(name).register_forward_pre_hook(partial(take_input, f"preactivations.{i}")))

    def _take_input(self, name: str, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if name.partition(".")[0] in self._wanted:
            self._seen[name] = inputs[0]

    def _in_float32(self, classifier: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Compute logits again that came in half precision: losses tell them apart more finely than that."""
        if not isinstance(output, Tensor) or output.dtype.itemsize >= 4:
            return output
        if any(isinstance(module, CHANGED_BY_A_PASS) for module in classifier.modules()):
            return output
        with torch.autocast(output.device.type, enabled=False):
            return classifier.forward(*(each.float() for each in inputs))

    def _take_output(self, name: str, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if name.partition(".")[0] in self._wanted:
            self._seen[name] = output


def _as_map(output: Tensor, form: Form) -> Tensor:
    """(N, C, H, W) of a stage's output."""
    if form == "channels_last":
        return output.permute(0, 3, 1, 2)
    if form == "tokens":
        side = isqrt(output.shape[1])
        return output[:, -(side**2) :].transpose(1, 2).reshape(len(output), -1, side, side)
    return output


def _as_vector(embedding: Tensor) -> Tensor:
    """(N, D) of a classifier's input; the mean over space where that is a convolution."""
    return embedding.mean((2, 3)) if embedding.dim() == 4 else embedding
