"""Artifacts of a run: the chosen weights, rounded to the recipe's precision, tested, described, exported."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retort.architecture import Card
from retort.compression import CompressedFile
from retort.dataset import DataFacts
from retort.engine.epoch_plan import TrainingExtent
from retort.export import Export
from retort.method import Wrapper
from retort.network import Network
from retort.student import describe
from retort.task import Score, Task


@dataclass
class NetworkResult:
    """A network at the end of its training."""

    name: str
    role: str
    """`teacher`, `student` or `baseline` (a student without methods)."""
    architecture: str
    card: Card
    network: Network
    last: dict[str, Tensor]
    """Weights after the last step."""
    best: dict[str, Tensor]
    """Weights after the best epoch on the validation split."""
    best_epoch: int | None = None
    """None for a teacher that came trained; 0 where the first epoch was not finished."""
    extent: TrainingExtent | None = None
    """Extent of its training; None for a teacher that came trained."""
    wrapper: tuple[str, Wrapper] | None = None
    signs: Mapping[str, str] = field(default_factory=dict)
    """The signs, present at the end of its training, that it has not learned: each with its sentence."""
    compressed: dict[str, CompressedFile] = field(default_factory=dict)
    """Files that steps of compression made, by the step's name."""

    def load(self, which: str, weights_dtype: str) -> None:
        """Take the weights of the best or the last epoch, rounded to the precision in which they are stored."""
        weights = self.best if which == "best" else self.last
        self.network.load_state_dict({name: round_to(tensor, weights_dtype) for name, tensor in weights.items()})


def round_to(tensor: Tensor, weights_dtype: str) -> Tensor:
    """The values that the tensor has when it is stored in that precision, in its own dtype."""
    if weights_dtype == "float16" and tensor.is_floating_point():
        return tensor.to(torch.float16).to(tensor.dtype)
    return tensor


def describe_result(
    result: NetworkResult, task: Task, facts: DataFacts, weights_dtype: str, test: Score | None
) -> dict[str, Any]:
    """The content of `student.json`: all that is needed to build the network again, and its test score."""
    description = describe(
        result.network,
        name=result.name,
        task=task,
        facts=facts,
        architecture=result.architecture,
        wrapper=result.wrapper,
        weights_dtype=weights_dtype,
    )
    if test is None:
        return description
    return description | {"test": {name: test.metrics[name] for name in task.columns if name in test.metrics}}


class Packer:
    """Writes artifacts and, when it is left, the list of them; all or, when something fails, none."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "artifacts"
        self.list_file = directory / "artifacts.json"
        self.listed: list[dict[str, Any]] = []

    def __enter__(self) -> Packer:
        # Files that a run left that was killed here, drafts of libraries among them.
        self._clear()
        self.directory.mkdir(parents=True)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            try:
                # Last: where the list lies, all artifacts do.
                self.list_file.write_text(json.dumps(self.listed))
            except OSError:
                self._clear()
                raise
        else:
            self._clear()

    def export(self, result: NetworkResult, description: dict[str, Any], export: Export) -> None:
        """Write a network in one format."""
        file = self.directory / f"{result.name}{export.suffix}"
        export.write(result.network, description, file)
        self.add(file, result.name, export.media_type)

    def take(self, result: NetworkResult, made: CompressedFile) -> None:
        """Take over a file that a step of compression made."""
        assert made.file is not None, "a file that missed its bound is not handed back"
        file = self.directory / f"{result.name}{made.suffix}"
        shutil.copyfile(made.file, file)
        self.add(file, result.name, made.media_type)

    def write_json(self, name: str, network: str | None, content: dict[str, Any]) -> None:
        file = self.directory / name
        file.write_text(json.dumps(content, indent=2) + "\n")
        self.add(file, network, "application/json")

    def add(self, file: Path, network: str | None, media_type: str) -> None:
        """List a file that lies in `directory`."""
        self.listed.append(
            {
                "name": file.name,
                "network": network,
                "media_type": media_type,
                "file": f"{self.directory.name}/{file.name}",
            }
        )

    def _clear(self) -> None:
        self.list_file.unlink(missing_ok=True)
        shutil.rmtree(self.directory, ignore_errors=True)
