"""Compression: each one change that makes a trained student smaller or quicker. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from retort.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from retort.network import Network


@dataclass(frozen=True)
class CompressionSetup:
    """A trained student and all that a step of compression may look at: never the test split."""

    network: Network
    """In eval mode on the CPU, its batch norm folded; with the weights that are shipped."""
    description: dict[str, Any]
    """The content of `student.json`."""
    training_inputs: Callable[[int], Iterator[Tensor]]
    """Batches of so many training examples, without augmentation, as the network reads them: (N, ...) float32."""
    value: float
    """Headline metric of the student on the validation split, before this step."""
    measure: Callable[[Path], float]
    """The same of an ONNX file, run by onnxruntime on this machine."""
    better: Callable[[float, float], bool]
    """Whether a headline metric is better than another."""
    folder: Path
    """An empty folder for the step's files."""


@dataclass(frozen=True)
class CompressedFile:
    """A file that a step made beside the exports of a student."""

    file: Path | None
    """None where the student missed the step's bound."""
    suffix: str
    """Ending of the artifact, behind the network's name."""
    media_type: str
    missed: str
    """The sentence on the bound that was missed; empty where it was kept."""
    facts: Mapping[str, Any]
    """Everything that was measured, as JSON for the report."""


class Compression(Spec):
    """Base of every step. A subclass is one file in retort/compressions/ and names itself by `name`."""

    name: str
    weights_dtype: ClassVar[Literal["float32", "float16"]] = "float32"
    """Precision in which the student's weights are stored."""
    makes_file: ClassVar[bool] = False
    """Whether the step makes a file of its own; others change the weights alone."""

    def compress(self, setup: CompressionSetup) -> CompressedFile:
        """Make the step's own file."""
        raise TypeError(f"{self.name} makes no file")
