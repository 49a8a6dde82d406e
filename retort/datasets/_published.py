"""Published data sets: official training and test splits, and a validation split taken from the training split.

No torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from retort.dataset import Channels, Dataset, DatasetError, ImageClassFacts, LoadedDataset
from retort.datasets._fetch import Download, fetch
from retort.datasets._roots import LONGEST_PATH, PATH_PATTERN, Files, Roots, reading
from retort.datasets._split import split_count, split_off

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class OfficialFacts:
    """Facts of a published data set when it is whole."""

    train: int
    """Images in the training split, before a validation split is split off."""
    test: int
    mean: Channels
    """Of each channel, in [0, 1], as published work uses it."""
    std: Channels
    """Likewise."""


class PublishedDataset(Dataset):
    """Base of the published data sets. Folders may hold fewer images than the official ones, and never more."""

    official: ClassVar[OfficialFacts]
    downloads: ClassVar[tuple[Download, ...]] = ()
    """Its files, if they may be downloaded without a registration."""
    layout: ClassVar[str]
    """Contents of its folder, in words."""
    inner_folders: ClassVar[tuple[str, ...]] = ()
    """Folders that its archives unpack to: a path may name the one above as well."""

    path: str | None = Field(default=None, min_length=1, max_length=LONGEST_PATH, pattern=PATH_PATTERN)
    """Folder with the published files, under one that the server allows (RETORT_DATA_ROOTS); null downloads them."""
    validation_share: float = Field(default=0.1, ge=0, lt=0.5)
    """Share of the training split that is split off for validation, class by class; with 0 all of it is trained on, and
    the test split is the validation split too, so that the best epoch's accuracy is a choice made on the test split."""
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    """Rules which images are split off."""

    def facts(self, roots: Sequence[Path]) -> ImageClassFacts | None:
        if self.path is None:
            self._insist_on_downloads()
            return self._facts_to_come()
        allowed = Roots(roots)
        folder = allowed.folder(self.path)
        if not allowed.are_here(folder):
            return None
        with reading(self.path):
            return self._look(self._files(folder, allowed))

    def fetch(self) -> None:
        if self.path is None:
            self._insist_on_downloads()
            fetch(self.name, self.downloads)

    def load(self, roots: Sequence[Path]) -> LoadedDataset:
        if self.path is None:
            self._insist_on_downloads()
            folder = fetch(self.name, self.downloads)
            allowed = Roots([folder])
        else:
            allowed = Roots(roots)
            folder = allowed.folder(self.path)
        with reading(str(folder)):
            return self._load(self._files(folder, allowed))

    @abstractmethod
    def _facts_to_come(self) -> ImageClassFacts | None:
        """Facts of a set that was not downloaded yet."""

    @abstractmethod
    def _look(self, files: Files) -> ImageClassFacts | None:
        """Facts from its files without decoding any image. Raises DatasetError or OSError."""

    @abstractmethod
    def _load(self, files: Files) -> LoadedDataset:
        """The images in its files. Raises DatasetError or OSError."""

    def _files(self, folder: Path, allowed: Roots) -> Files:
        if not folder.is_dir():
            raise DatasetError(f"{str(folder)!r} is not a folder")
        inner = next((inner for inner in self.inner_folders if (folder / inner).is_dir()), "")
        return Files(folder / inner, allowed)

    def _insist_on_downloads(self) -> None:
        if not self.downloads:
            raise DatasetError(f"{self.name} is not downloaded by itself; give path, a folder that holds {self.layout}")

    def _facts(self, class_names: tuple[str, ...], image_size: int, train: int, test: int) -> ImageClassFacts:
        """The facts of so many images; a folder without images, or with more than were published, is refused."""
        official = self.official
        for split, found, most in (("training", train, official.train), ("test", test, official.test)):
            if not 0 < found <= most:
                raise DatasetError(f"{found:,} {split} images were found; {self.name} has {most:,}")
        validation = split_count(train, self.validation_share)
        return ImageClassFacts(
            classes=len(class_names),
            class_names=class_names,
            image_size=image_size,
            train=train - validation,
            validation=validation if self.validation_share else test,
            test=test,
            mean=official.mean,
            std=official.std,
        )

    def _split(self, labels: Sequence[int]) -> tuple[list[int], list[int] | None]:
        """Positions of the training and the validation images; None where the test split is the validation split."""
        if not self.validation_share:
            return list(range(len(labels))), None
        stay, off = split_off(labels, self.validation_share, self.split_seed)
        emptied = set(labels) - {labels[position] for position in stay}
        if emptied:
            raise DatasetError(
                f"class {min(emptied)} has too few training images ({labels.count(min(emptied))}) to split some off"
            )
        return stay, off

    def _warnings(self, train: int, test: int) -> Iterator[str]:
        if not self.validation_share:
            yield (
                "the test split is the validation split too (validation_share is 0): the accuracy of the best epoch is "
                "chosen on the test split, and flatters; the last epoch's does not"
            )
        official = self.official
        if (train, test) != (official.train, official.test):
            found = (
                f"{train:,} training and {test:,} test images were found; {self.name} has {official.train:,} and "
                f"{official.test:,}"
            )
            if self.path is None:
                raise DatasetError(f"what was downloaded is not whole any more: {found}")
            yield found


class Arrays(PublishedDataset):
    """Base of the small published sets, whose files hold plain numbers."""

    class_names: ClassVar[tuple[str, ...]]
    image_size: ClassVar[int]

    @abstractmethod
    def _count(self, files: Files) -> tuple[int, int]:
        """Images of the training and test split, as far as they are known without reading them all."""

    @abstractmethod
    def _read(self, files: Files) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Training and test split: (M, 3, H, W) uint8 images and (M,) int64 labels, as the files have them."""

    def _facts_to_come(self) -> ImageClassFacts:
        return self._facts(self.class_names, self.image_size, self.official.train, self.official.test)

    def _look(self, files: Files) -> ImageClassFacts:
        return self._facts(self.class_names, self.image_size, *self._count(files))

    def _load(self, files: Files) -> LoadedDataset:
        import torch

        from retort.datasets._memory import MemorySplit, loaded

        facts = self._look(files)
        (pixels, labels), test_arrays = self._read(files)
        counts = len(labels), len(test_arrays[1])
        stay, off = self._split(labels.tolist())

        def split(positions: list[int]) -> MemorySplit:
            taken = torch.tensor(positions, dtype=torch.int64)
            return MemorySplit(pixels[taken], labels[taken])

        test = MemorySplit(*test_arrays)
        train, validation = split(stay), test if off is None else split(off)
        return loaded(facts, train, validation, test, tuple(self._warnings(*counts)))

    def _refuse_labels(self, name: str, labels: Tensor) -> None:
        """Raise DatasetError if a label is none of the classes'."""
        wrong = (labels >= len(self.class_names)).nonzero().flatten()
        if len(wrong):
            position = int(wrong[0])
            raise DatasetError(
                f"image {position} in {name} has the label {int(labels[position])}; labels are 0 to "
                f"{len(self.class_names) - 1}"
            )
