"""A user's classifier tried on labelled images: its accuracy, the order of its classes, its input."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from retort.dataset import ImageClassFacts
from retort.input import Input
from retort.task import ModelTrial, TaskError
from retort.tasks.classification.reordering import reorder
from retort.user_model import class_order, class_sentence

COMPARED_IMAGES = 512
"""Images on which other normalisations are tried."""
CLEARLY = 0.05
"""Gain of accuracy that is reported, where it is also more than twice its standard error."""
NORMALISATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "ImageNet's mean and std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CIFAR's mean and std": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "MNIST's mean and std": ((0.1307, 0.1307, 0.1307), (0.3081, 0.3081, 0.3081)),
    "0 to 1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "0 to 255": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
    "-1 to 1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""The usual preparations of a network's images, as mean and std of RGB in [0, 1]."""


def check_classes(trial: ModelTrial, facts: ImageClassFacts) -> tuple[dict[str, float], dict[str, Any]]:
    """`accuracy` and `images`, and for the report the outputs' range, the order that fits best and the accuracies
    under other preparations of the images. Raises TaskError where the network gives another number of classes."""
    record = trial.record
    if record.classes != facts.classes:
        raise TaskError(f"{record.id} gives {record.classes} classes, the data set has {facts.classes}")
    sentence = class_sentence(record.id, record.class_names, facts.class_names)
    if sentence is not None:
        trial.sentences.append(sentence)
    order = class_order(record.class_names, facts.class_names)
    if order is not None and order != tuple(range(len(order))):
        reorder(trial.network, order)
    logits_NK, targets_N = trial.predict(trial.positions)
    accuracy = _accuracy(logits_NK, targets_N)
    return {"accuracy": accuracy, "images": float(len(targets_N))}, {
        "images": len(targets_N),
        "accuracy": accuracy,
        "permuted": _permuted(trial, logits_NK, targets_N, facts.class_names),
        "normalisations": _normalisations(trial),
    }


def _permuted(trial: ModelTrial, logits_NK: Tensor, targets_N: Tensor, class_names: tuple[str, ...]) -> dict[str, Any]:
    """The accuracy when the outputs are read in the order that fits best.

    The order is found on one half of the images and evaluated on the other: with few images a class any order fits
    some. `order[i]` is the output that means class i.
    """
    half = len(targets_N) // 2
    if half == 0:
        return {}
    order = best_order(logits_NK[:half].argmax(1), targets_N[:half], logits_NK.shape[1])
    before, after = (_accuracy(rows, targets_N[half:]) for rows in (logits_NK[half:], logits_NK[half:][:, order]))
    if _is_better(after, before, len(targets_N) - half):
        moved = [i for i, j in enumerate(order) if i != j]
        named = "; ".join(f"class {i} ({class_names[i]!r}) is output {order[i]}" for i in moved[:5])
        more = f"; and {len(moved) - 5} more" if len(moved) > 5 else ""
        trial.sentences.append(
            f"the class order is probably wrong: in another order the accuracy is {after:.3f} and not "
            f"{before:.3f} ({named}{more})"
        )
    return {"order": order, "accuracy": after, "accuracy_as_given": before, "images": len(targets_N) - half}


def _normalisations(trial: ModelTrial) -> dict[str, float]:
    """Accuracies under other preparations of the same images."""
    network, positions = trial.network, trial.positions[:COMPARED_IMAGES]
    given, expects, classes = network.image, trial.record.expects, 2
    found: dict[str, float] = {}
    try:
        for name, image in _preparations(given, grey=expects is not None and expects.channels == 1):
            network.set_input(image)
            trial.place()
            logits_NK, targets_N = trial.predict(positions)
            classes = logits_NK.shape[1]
            found[name] = _accuracy(logits_NK, targets_N)
    finally:
        network.set_input(given)
        trial.place()
    best = max(found, key=lambda name: found[name])
    # Of a network whose classes are confused all are near chance, and one is always best.
    if found[best] > 2 / classes and _is_better(found[best], found["as given"], len(positions)):
        trial.sentences.append(
            f"what it expects is probably wrong: with {best} the accuracy is {found[best]:.3f} and not "
            f"{found['as given']:.3f}"
        )
    return found


def _preparations(given: Input, *, grey: bool) -> Iterator[tuple[str, Input]]:
    """The preparations to try, the given one first; of grey images those that are alike in all channels."""
    yield "as given", given
    if not grey:
        flipped = "bgr" if given.channel_order == "rgb" else "rgb"
        yield flipped.upper(), given.model_copy(update={"channel_order": flipped})
    for name, (mean, std) in NORMALISATIONS.items():
        if not grey or len({*mean}) == 1:
            yield name, given.model_copy(update={"mean": mean, "std": std})


def best_order(guesses_N: Tensor, targets_N: Tensor, classes: int) -> list[int]:
    """For each class, the output that means it when as many guesses as possible are to be right (Kuhn 1955)."""
    # By target and guess; a bonus below one image keeps the order as it is where nothing speaks for another.
    counts_KK = torch.bincount(targets_N * classes + guesses_N, minlength=classes**2).view(classes, classes).double()
    counts_KK += torch.eye(classes) / (2 * classes)
    _, columns = linear_sum_assignment(counts_KK.numpy(), maximize=True)
    return [int(column) for column in columns]


def _is_better(new: float, old: float, images: int) -> bool:
    error = sqrt((new * (1 - new) + old * (1 - old)) / images)
    return new - old >= max(CLEARLY, 2 * error)


def _accuracy(logits_NK: Tensor, targets_N: Tensor) -> float:
    return float((logits_NK.argmax(1) == targets_N).double().mean())
