"""Proof of downloaded networks: each is built again, run over the test images, counted and timed."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retort.recipe import Recipe
from retort.student import load_student

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 256
WARM_UPS, TIMED = 20, 200


@dataclass(frozen=True)
class Proof:
    """One network, as it was downloaded."""

    name: str
    role: str
    """`teacher`, `student` or `baseline`."""
    architecture: str
    images: int
    reported: int
    """Test images that the job says it gets right."""
    rebuilt: int
    """The same, of the network built again from its description and its safetensors file."""
    onnx: int | None
    """The same, of the ONNX file in onnxruntime; None where there is none."""
    parameters: int
    weights_bytes: int
    """Size of the safetensors file."""
    latency_seconds: float
    """Median for one image, on one thread of this machine's CPU."""

    @property
    def holds(self) -> bool:
        """Whether all counts agree, to the image."""
        return self.rebuilt == self.reported and self.onnx in (None, self.reported)


def prove(folder: Path, recipe: dict[str, Any], report: dict[str, Any]) -> list[Proof]:
    """Check every network of the report that was downloaded into the folder, on the recipe's own test images."""
    test = Recipe.model_validate(recipe).dataset.load(()).test
    images, labels = _all_images(test), test.targets
    return [_prove_one(folder, row, report["ship"], images, labels) for row in report["networks"]]


def _prove_one(folder: Path, row: dict[str, Any], ship: str, images: Tensor, labels: Tensor) -> Proof:
    import torch

    name = row["name"]
    network, description = load_student(folder / f"{name}.json")
    torch.set_num_threads(1)
    with torch.inference_mode():
        rebuilt = count_right(network, images, labels)
        latency = seconds_per_call(lambda: network(images[:1]))
    onnx_file, weights_file = folder / f"{name}.onnx", folder / description["weights_file"]
    return Proof(
        name=name,
        role=row["role"],
        architecture=row["architecture"],
        images=len(labels),
        reported=round(row["test"][ship]["test.correct"]),
        rebuilt=rebuilt,
        onnx=count_right(onnx_network(onnx_file), images, labels) if onnx_file.exists() else None,
        parameters=row["parameters"],
        weights_bytes=weights_file.stat().st_size,
        latency_seconds=latency,
    )


def count_right(network: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> int:
    """Images whose first guess is the label."""
    guesses = (network(images[i : i + BATCH]).argmax(1) for i in range(0, len(images), BATCH))
    return sum(int((guess == labels[i * BATCH : i * BATCH + BATCH]).sum()) for i, guess in enumerate(guesses))


def onnx_network(file: Path) -> Callable[[Tensor], Tensor]:
    """An ONNX file as a function, run by onnxruntime."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def seconds_per_call(call: Callable[[], object]) -> float:
    """Median time of a call, once it is warm."""
    for _ in range(WARM_UPS):
        call()
    taken = []
    for _ in range(TIMED):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _all_images(split: Any) -> Tensor:
    """All images of a split as a shipped network takes them: (M, 3, H, W) float32 in [0, 1]."""
    import torch

    images: Tensor = split.inputs(torch.arange(len(split)))
    return images.float() / 255


def read_report(folder: Path) -> dict[str, Any]:
    """The job's final table, as it was downloaded."""
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report
