"""Data sets: facts that anyone may ask for, and examples that only the engine loads. Imports no torch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Protocol

from pydantic import Field

from retort.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor


Channels = tuple[float, float, float]
"""A number for red, green and blue each."""
ColourValue = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[ColourValue, ColourValue, ColourValue]
"""Red, green and blue, 0 to 255."""
WHITE = (255, 255, 255)


class DatasetError(ValueError):
    """The data set that a recipe names cannot be used as it is; the sentence gives the reason."""


class Decoding(Spec):
    """The making of RGB images of 8 bits from files with transparency or more bits, the same for a whole data set."""

    background: Colour = WHITE
    """The colour on which transparent pixels are laid."""
    white: float | None = Field(default=None, gt=0)
    """The value that becomes 255 in images of more than 8 bits a channel: 4095 of 12 bits, 1 of fractions; null until
    it was measured, and where there are none."""


class DataFacts(Spec):
    """Facts of a data set that are known without loading its examples; a task names the class that it needs."""

    train: int
    """Examples in the training split."""
    validation: int
    """Examples in the validation split; the best epoch is chosen on it."""
    test: int
    """Examples in the test split, looked at once, at the end."""


class ImageFacts(DataFacts):
    """Facts of a data set whose inputs are images."""

    image_size: int
    """Side of the square images that the engine gets, in pixels."""
    mean: Channels | None = None
    """Mean of each channel, in [0, 1]: the published one, or the training split's; null until that was measured."""
    std: Channels | None = None
    """Standard deviation of each channel, in [0, 1]: the published one, or the training split's; null likewise."""
    decoding: Decoding | None = None
    """The making of its images of files, for a user's images; null for published data sets, and for what was taken in
    before version 0.3: more than 8 bits are cut to 8 there, and transparency is dropped."""


class ImageClassFacts(ImageFacts):
    """Facts of a data set of images whose targets are classes."""

    classes: int
    """Number of classes."""
    class_names: tuple[str, ...]
    """Name of each class, in the order of the targets."""


class Split(Protocol):
    """The training, validation or test examples of a data set. Several threads may read it."""

    targets: Tensor
    """(M, ...) one target an example: int64 class indices in [0, K) where targets are classes."""

    def __len__(self) -> int: ...

    def inputs(self, indices: Tensor) -> Tensor:
        """The inputs at those (N,) int64 positions, on the device where the split lives.

        Of images (N, 3, H, W) uint8 RGB.
        """
        ...


@dataclass(frozen=True)
class LoadedDataset:
    """A data set that the engine has loaded."""

    facts: DataFacts
    train: Split
    validation: Split
    test: Split
    digest: str
    """sha256, hex, of inputs and targets in order: a checkpoint of other data is refused. Of images in files, of the
    files' bytes and of the code that brings them to their size."""
    warnings: tuple[str, ...] = ()
    """Sentences for the job's event log about oddities (stray files, for example)."""


class Dataset(Spec):
    """Base of every data set. A subclass is one file in retort/datasets/ and names itself by `name`.

    Images are RGB and square; grey ones are repeated in three channels, so that every architecture can read them.
    """

    name: str
    source: ClassVar[str]
    """Source of the data: authors, year, link, licence as stated."""

    @abstractmethod
    def facts(self, roots: Sequence[Path]) -> DataFacts | None:
        """The facts that are known without torch and without decoding an image; None where a worker must look.

        `roots` are the folders under which a recipe may name local paths. Raises DatasetError.
        """

    def fetch(self) -> None:
        """Download what comes from outside, before it is loaded. Raises DatasetError, or Unreachable."""

    @abstractmethod
    def load(self, roots: Sequence[Path]) -> LoadedDataset:
        """The examples, on the CPU. Imports torch. Raises DatasetError."""
