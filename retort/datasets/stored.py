"""Stored: a data set of the user's own that the service took in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from retort.dataset import Dataset, DatasetError, ImageClassFacts, LoadedDataset
from retort.datasets._archive import SPLITS, Archive
from retort.datasets._roots import fetched


class StoredDataset(Dataset):
    """A data set that `POST /v1/datasets` made of the user's own images; its parts and classes are fixed.

    Each image is scaled until its shorter side fits, then its middle is taken.
    """

    source: ClassVar[str] = "the user's own images, taken in by this service"

    name: Literal["stored"] = "stored"
    dataset: str = Field(pattern=r"^dataset_[0-9a-z]+$")
    """Id of the data set."""
    image_size: int | None = Field(default=None, ge=8, le=1024)
    """Side of the square that images are resized to, in pixels; null is the data set's own."""

    def facts(self, roots: Sequence[Path]) -> ImageClassFacts | None:
        file = fetched(roots, self.dataset)
        return None if file is None else self.at_its_size(Archive(file).description.facts())

    def load(self, roots: Sequence[Path]) -> LoadedDataset:
        from retort.datasets._pictures import load_pictures

        file = fetched(roots, self.dataset)
        if file is None:
            raise DatasetError(f"the data set {self.dataset!r} was not fetched to this machine")
        archive = Archive(file)
        facts = self.at_its_size(archive.description.facts())
        train, validation, test = (archive.listed()[split] for split in SPLITS)
        warnings = tuple(self.size_warnings(archive.description.facts()))
        return load_pictures(facts, archive, train, validation, test, warnings, checked=file.name)

    def size_warnings(self, own: ImageClassFacts) -> Iterator[str]:
        """A sentence where this recipe enlarges the images of a data set with these facts."""
        if self.image_size is not None and self.image_size > own.image_size:
            yield (
                f"image_size is {self.image_size}, and the data set was taken in with images of {own.image_size} "
                "pixels a side, which are enlarged; take it in again with a larger image_size"
            )

    def at_its_size(self, facts: ImageClassFacts) -> ImageClassFacts:
        """The data set's facts as this recipe wants it: statistics hold for the size at which they were measured."""
        if self.image_size in (None, facts.image_size):
            return facts
        return facts.model_copy(update={"image_size": self.image_size, "mean": None, "std": None})
