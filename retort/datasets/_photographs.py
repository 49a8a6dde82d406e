"""Published sets of photographs: image files, and lists or folders that assign them to splits. No torch."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field

from retort.dataset import DatasetError, ImageClassFacts, LoadedDataset
from retort.datasets._listing import Labelled, stray_warning
from retort.datasets._published import PublishedDataset
from retort.datasets._roots import Files


@dataclass
class Listing:
    """The images of a set's two official parts, in a fixed order."""

    class_names: tuple[str, ...]
    train: list[Labelled]
    test: list[Labelled]
    stray: list[str] = field(default_factory=list)
    """Files that were passed over: no images, hidden, or links out of the allowed folders."""


class Photographs(PublishedDataset):
    """Base of the sets of photographs. Each is scaled until its shorter side fits, then its middle is taken."""

    inner_folders: ClassVar[tuple[str, ...]] = ()

    image_size: int = Field(default=224, ge=8, le=1024)
    """Side of the square that images are resized to, in pixels."""

    @abstractmethod
    def _listing(self, files: Files) -> Listing:
        """All its images, none decoded. Raises DatasetError or OSError."""

    def _facts_to_come(self) -> ImageClassFacts | None:
        return None

    def _look(self, files: Files) -> ImageClassFacts | None:
        return self._facts_of(self._listing(files))

    def _facts_of(self, listing: Listing) -> ImageClassFacts:
        return self._facts(listing.class_names, self.image_size, len(listing.train), len(listing.test))

    def _load(self, files: Files) -> LoadedDataset:
        from retort.datasets._pictures import Folder, load_pictures

        listing = self._listing(files)
        facts = self._facts_of(listing)
        labels = [label for _, label in listing.train]
        missing = set(range(facts.classes)).difference(labels)
        if missing:
            raise DatasetError(f"class {listing.class_names[min(missing)]!r} has no training image")
        stay, off = self._split(labels)
        return load_pictures(
            facts,
            Folder(files.folder),
            train=[listing.train[position] for position in stay],
            validation=None if off is None else [listing.train[position] for position in off],
            test=listing.test,
            warnings=(*self._warnings(len(labels), len(listing.test)), *stray_warning(listing.stray)),
        )


def held(files: Files, named: Iterable[Labelled], source: str) -> list[Labelled]:
    """The images that a list names. Raises DatasetError for one that is missing or leads elsewhere."""
    kept = list(named)
    for file, _ in kept:
        if not files.hold(file):
            raise DatasetError(f"{source} names {file!r}, not a file that may be read")
    return kept


def told_apart(names: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
    """The names, with their keys after those that several classes bear."""
    count = Counter(names)
    return tuple(name if count[name] == 1 else f"{name} ({key})" for name, key in zip(names, keys, strict=True))
