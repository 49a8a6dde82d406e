"""Protocols: the settings under which papers compare methods, as fields of a recipe that the user need not write.

What a recipe gives stands over its protocol's, field by field; the stored recipe holds the outcome and no protocol.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError

SMALL_NETWORKS = ("mobilenet", "shufflenet")
"""Prefixes of the networks that the papers train at a lower rate."""
RATE_FIELD = "training/optimizer/learning_rate"


@dataclass(frozen=True)
class Protocol:
    """Settings that a paper's comparisons share."""

    datasets: frozenset[str]
    """Data sets of which nothing is split off for validation: all of the training split is trained on, and the last
    epoch is shipped, so that nothing is chosen on the test split."""
    learning_rate: float
    """Per step, before the schedule."""
    small_learning_rate: float
    """The same for SMALL_NETWORKS."""
    training: dict[str, Any]
    """The other fields of `training`, and of `teacher.teach` where that is given."""

    def rate(self, architecture: str) -> float:
        small = architecture.rpartition(".")[2].startswith(SMALL_NETWORKS)
        return self.small_learning_rate if small else self.learning_rate


def _training(
    *, epochs: int, batch_size: int, weight_decay: float, milestones: list[int], augmentation: dict[str, Any]
) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": weight_decay},
        "schedule": {"name": "steps", "milestones": milestones, "factor": 0.1},
        "warmup_epochs": 0,
        "augmentation": {**augmentation, "flip": True},
    }


CIFAR100 = Protocol(
    datasets=frozenset({"cifar10", "cifar100"}),
    learning_rate=0.05,
    small_learning_rate=0.01,
    training=_training(
        epochs=240, batch_size=64, weight_decay=5e-4, milestones=[150, 180, 210], augmentation={"crop_padding": 4}
    ),
)
"""CIFAR-100 as in CRD: Tian, Krishnan, Isola 2020, https://github.com/HobbitLong/RepDistiller (train_student.py).

Departs from it in nothing but the arithmetic, which is the worker's (`training.precision`).
"""

IMAGENET = Protocol(
    datasets=frozenset({"imagenet"}),
    learning_rate=0.2,
    small_learning_rate=0.2,
    training=_training(
        epochs=100, batch_size=512, weight_decay=1e-4, milestones=[30, 60, 90], augmentation={"resized_crop": {}}
    ),
)
"""ImageNet-1k as in DKD: Zhao et al. 2022, https://github.com/megvii-research/mdistiller (configs/imagenet).

Departs from it in the images: training crops are of the square that the data set keeps, not of the photograph, and
the test images are scaled to the final size at once, not to 256 pixels and then cropped to 224. Arithmetic is the
worker's.
"""

TINY_IMAGENET = Protocol(
    datasets=frozenset({"tiny_imagenet"}),
    learning_rate=0.05,
    small_learning_rate=0.01,
    training=_training(
        epochs=240, batch_size=64, weight_decay=5e-4, milestones=[150, 180, 210], augmentation={"crop_padding": 8}
    ),
)
"""Tiny-ImageNet as in R2KD: Kim et al. 2024, https://github.com/Seonghak35/R2KD.

The lower rate is stated there for MobileNetV2 and ShuffleNetV2; here it is that of all SMALL_NETWORKS. Arithmetic is
the worker's.
"""

PROTOCOLS = {"cifar100": CIFAR100, "imagenet": IMAGENET, "tiny_imagenet": TINY_IMAGENET}


def expand(sent: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as it was sent, with its protocol's fields where it gives none, and without `protocol`.

    Raises PydanticCustomError when the protocol trains the recipe's students at different rates.
    """
    name = sent["protocol"]
    protocol = PROTOCOLS[name]
    given = {field: value for field, value in sent.items() if field != "protocol"}
    preset: dict[str, Any] = {"training": protocol.training, "evaluation": {"ship": "last"}}
    dataset = _get(given, "dataset", "name")
    if isinstance(dataset, str) and dataset in protocol.datasets:
        preset["dataset"] = {"name": dataset, "validation_share": 0}
    if isinstance(_get(given, "teacher", "teach"), Mapping):
        rate = protocol.rate(str(_get(given, "teacher", "architecture")))
        preset["teacher"] = {"teach": _at_rate(protocol.training, rate)}
    merged = _merged(preset, given)
    if (
        _get(merged, "training", "optimizer", "name") == "sgd"
        and "learning_rate" not in merged["training"]["optimizer"]
    ):
        merged["training"] = _at_rate(merged["training"], _students_rate(name, given))
    return merged


def _students_rate(name: str, given: Mapping[str, Any]) -> float:
    rates = {architecture: PROTOCOLS[name].rate(architecture) for architecture in _architectures(given)}
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{architecture} at {rate:g}" for architecture, rate in rates.items())
        raise PydanticCustomError(
            "rates_differ",
            "protocol {protocol} trains {rates}; give training.optimizer.learning_rate as a number",
            {"protocol": name, "rates": listed, "field": RATE_FIELD},
        )
    return next(iter(rates.values()), PROTOCOLS[name].learning_rate)


def _architectures(given: Mapping[str, Any]) -> Iterator[str]:
    students = given.get("students")
    for student in (given.get("student"), *(students if isinstance(students, list | tuple) else ())):
        if isinstance(name := _get(student, "architecture"), str):
            yield name


def _at_rate(training: Mapping[str, Any], rate: float) -> dict[str, Any]:
    return {**training, "optimizer": {**training["optimizer"], "learning_rate": rate}}


def _get(value: Any, *path: str) -> Any:
    """The value at a path in nested objects; None where the path leads through anything else."""
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _merged(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Both, object by object; what is given stands over the preset, and wholly where it names another thing."""
    merged = {**preset, **given}
    for field in preset.keys() & given.keys():
        ours, theirs = preset[field], given[field]
        if not (isinstance(ours, Mapping) and isinstance(theirs, Mapping)):
            continue
        if theirs.get("name", ours.get("name")) == ours.get("name"):
            merged[field] = _merged(ours, theirs)
    return merged
