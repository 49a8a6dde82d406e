"""Find where to read a body that we did not write: run it once on torch's meta device, where no number is computed."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt, log2
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from retort.network import Form, Layout

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
"""Containers that are searched for units; a subclass is a unit itself, such as a convolution with its batch norm."""
CHANGE_NOTHING = (nn.MaxPool2d, nn.AvgPool2d, nn.Dropout)
"""Units that make no stage by themselves: where one ends a resolution, the stage is what stood before it."""
CLASSES = 997
"""Classes of a surveyed body: a prime that is not any other width, so that classifiers are recognised by it."""
IMAGES = 2
"""That are run at once."""
LEAST_DEPTH = 0.5
"""Part of a body that must lie before its last map; behind it some have a head of several layers."""
MOST_EXTRA_TOKENS = 16
"""Before the tokens of an image: for the class, for distillation, registers."""
ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU)


class Hollow(TorchFunctionMode):
    """While it lasts networks are built on torch's meta device, which takes no time and no memory.

    Only what numbers are made of goes there: some makers compute widths with tensors, which must have values.
    """

    MAKERS = (torch.empty, torch.zeros, torch.ones, torch.randn)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.MAKERS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


class Unreadable(ValueError):
    """A body that gives no maps, or no logits, in a way that can be read; the sentence gives the reason."""


def survey(body: nn.Module, image_size: int) -> Layout:
    """The layout of a body on the meta device, made for `CLASSES` classes, which reads square images of that size.

    A stage is the last unit of each resolution before the map is averaged, a unit being a child of the body or of a
    plain container in it; the classifier is the last module with numbers for each class. Before activation a stage can
    be read only if each ends in an activation that is a module. Raises Unreadable.
    """
    steps = run(body, image_size)
    _, logits = steps[-1]
    if not isinstance(logits, Tensor) or logits.shape != (IMAGES, CLASSES):
        raise Unreadable("it does not give one row of logits for an image")
    *further, classifier = _classifiers(body, steps)
    stages = dict(_stages(body, steps, classifier, image_size))
    if not stages:
        raise Unreadable("no part of it hands out a square map")
    forms = tuple(form for _, form, _ in stages.values())
    names = tuple(name for name, _, _ in stages.values())
    if _depth(body, steps, names[-1]) < LEAST_DEPTH:
        raise Unreadable(f"its last square map is that of {names[-1]}, long before its logits")
    return Layout(
        stages=names,
        classifier=classifier,
        activations=_last_activations(body, steps, [output for _, _, output in stages.values()]),
        forms=forms if set(forms) != {"channels_first"} else (),
        further_classifiers=tuple(further),
    )


@torch.no_grad()
def run(body: nn.Module, image_size: int) -> list[tuple[str, Any]]:
    """Each module's name and output, in the order in which they finish; last the body itself, under an empty name."""
    steps: list[tuple[str, Any]] = []

    def note(name: str) -> Any:
        return lambda module, inputs, output: steps.append((name, output))

    hooks = [module.register_forward_hook(note(name)) for name, module in body.named_modules()]
    try:
        body.eval()(torch.empty(IMAGES, 3, image_size, image_size, device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return steps


@torch.no_grad()
def reads(network: nn.Module, image_size: int, *, modes: tuple[bool, ...] = (True, False)) -> bool:
    """True if images of that size pass through a network on the meta device, in training and after it."""
    images = torch.empty(IMAGES, 3, image_size, image_size, device="meta")
    try:
        return all(isinstance(network.train(training)(images), Tensor) for training in modes)
    except Exception:  # networks of other makers raise anything for images that they cannot read
        return False


def _classifiers(body: nn.Module, steps: list[tuple[str, Any]]) -> list[str]:
    """Modules that hold numbers for each class, in the order in which they run."""
    holders = {
        name
        for name, module in body.named_modules()
        if any(p.dim() and len(p) == CLASSES for p in module.parameters(recurse=False))
    }
    found = [name for name, _ in steps if name in holders]
    if not found or set(found) != holders:
        raise Unreadable("it has no classifier that runs as a module")
    return found


def _depth(body: nn.Module, steps: list[tuple[str, Any]], stage: str) -> float:
    """The part of all modules with numbers of their own that have run when a stage is done."""
    order = [name for name, _ in steps]
    done = len(order) - order[::-1].index(stage)
    counted = [any(True for _ in body.get_submodule(name).parameters(recurse=False)) for name in order]
    return sum(counted[:done]) / sum(counted)


def _stages(
    body: nn.Module, steps: list[tuple[str, Any]], classifier: str, image_size: int
) -> Iterator[tuple[int, tuple[str, Form, Tensor]]]:
    """(stride, (name, form, output)) of each unit that gives a map, shallow to deep; of equal strides the last counts.

    Strides are rounded to powers of two: a convolution without padding loses a border, which makes no new stage. A map
    of one position has been averaged.
    """
    units = dict(_units(body, ""))
    for name, output in steps:
        if name == classifier or isinstance(units.get(name), nn.AdaptiveAvgPool2d):
            return
        shape = _shape(output) if name in units and not isinstance(units[name], CHANGE_NOTHING) else None
        if shape is not None:
            form, side = shape
            if side == 1:
                return
            yield 2 ** round(log2(image_size / side)), (name, form, output)


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if type(child) in CONTAINERS:
            yield from _units(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def _shape(output: Any) -> tuple[Form, int] | None:
    """Layout in which a map was handed out, and its side; None for anything but a square map."""
    if not isinstance(output, Tensor) or len(output) != IMAGES:
        return None
    if output.dim() == 4 and output.shape[2] == output.shape[3]:
        return "channels_first", output.shape[2]
    if output.dim() == 4 and output.shape[1] == output.shape[2]:
        return "channels_last", output.shape[1]
    if output.dim() == 3:
        side = isqrt(output.shape[1])
        return ("tokens", side) if output.shape[1] - side**2 <= MOST_EXTRA_TOKENS else None
    return None


def _last_activations(body: nn.Module, steps: list[tuple[str, Any]], maps: list[Tensor]) -> tuple[str, ...]:
    """The activation that gives each map, by name; none at all unless every map has one."""
    # Of a module that is called several times the last call counts, as for a network's hooks.
    outputs = {name: output for name, output in steps if isinstance(body.get_submodule(name), ACTIVATIONS)}
    found = [next((name for name, output in outputs.items() if output is map_NCHW), None) for map_NCHW in maps]
    return tuple(name for name in found if name is not None) if None not in found else ()
