"""What a data set is: facts that anyone may ask for, and images that only the engine loads. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from retort.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor


Channels = tuple[float, float, float]
"""A number for red, green and blue each."""


class DatasetError(ValueError):
    """The data set that a recipe names cannot be used as it is; the sentence says why."""


class DataFacts(Spec):
    """What is known of a data set without loading its images."""

    classes: int
    """Number of classes."""
    class_names: tuple[str, ...]
    """Name of each class, in label order."""
    image_size: int
    """Side of the square images that the engine gets, in pixels."""
    train: int
    """Images in the training part."""
    validation: int
    """Images in the validation part; the best epoch is chosen on it."""
    test: int
    """Images in the test part, looked at once, at the end."""
    mean: Channels | None = None
    """Mean of each channel, in [0, 1]: the published one, or the training part's; null until that was measured."""
    std: Channels | None = None
    """Standard deviation of each channel, in [0, 1]: the published one, or the training part's; null likewise."""


class Split(Protocol):
    """Some labelled images: the training, validation or test part of a data set. Several threads may read it."""

    targets: Tensor
    """(M,) int64 class indices in [0, K)."""

    def __len__(self) -> int: ...

    def images(self, indices: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB images at those (N,) int64 positions, on the device where the part lives."""
        ...


@dataclass(frozen=True)
class LoadedDataset:
    """A data set in the engine's hands."""

    facts: DataFacts
    train: Split
    validation: Split
    test: Split
    digest: str
    """sha256, hex, of images and labels in order: a checkpoint of other data is refused. Of images in files, of the
    files' bytes and of what brings them to their size."""
    warnings: tuple[str, ...] = ()
    """What was odd, in sentences for the job's diary (stray files, say)."""


class Dataset(Spec):
    """Base of every data set. A subclass is one file in retort/datasets/ and names itself by `name`.

    Images are RGB and square; grey ones are repeated in three channels, so that every architecture can read them.
    """

    name: str
    source: ClassVar[str]
    """Where the data come from: authors, year, link, licence as stated."""

    @abstractmethod
    def facts(self, roots: Sequence[Path]) -> DataFacts | None:
        """What can be said without torch and without decoding an image; None if it can only be said on a worker.

        `roots` are the folders under which a recipe may name local paths. Raises DatasetError.
        """

    def fetch(self) -> None:
        """Have here what is to be fetched from outside before it is loaded. Raises DatasetError, or Unreachable."""

    @abstractmethod
    def load(self, roots: Sequence[Path]) -> LoadedDataset:
        """The images, on the CPU. Imports torch. Raises DatasetError."""
