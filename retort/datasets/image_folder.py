"""Image folder: photographs in one folder a class, or in train, validation and test folders of such."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from retort.dataset import WHITE, Colour, Dataset, DatasetError, Decoding, ImageClassFacts, LoadedDataset
from retort.datasets._archive import SPLITS
from retort.datasets._folders import read_folders
from retort.datasets._listing import Labelled, images_in, stray_warning
from retort.datasets._roots import LONGEST_PATH, PATH_PATTERN, Files, Roots, reading
from retort.datasets._split import take_splits


@dataclass
class FolderContents:
    """Contents of a folder, before any image is decoded."""

    class_names: tuple[str, ...]
    splits: dict[str, list[Labelled]]
    """The images of each split, in a fixed order."""
    stray: list[str] = field(default_factory=list)
    """Files that were passed over: no images, hidden, of no class, or links out of the allowed folders."""
    warnings: list[str] = field(default_factory=list)
    """Sentences on folders that were left out."""


class ImageFolder(Dataset):
    """Images in a local folder: `class/*.jpg`, or `train/`, `validation/` and `test/` above such folders.

    Classes are the folders' names, sorted. Each image is scaled until its shorter side fits, then its middle is taken.
    Parts that are missing are split off the training images, class by class, by a seed.
    """

    source: ClassVar[str] = "the user's own images"

    name: Literal["image_folder"] = "image_folder"
    path: str = Field(min_length=1, max_length=LONGEST_PATH, pattern=PATH_PATTERN)
    """The folder; it must lie under one that the server allows (RETORT_DATA_ROOTS)."""
    image_size: int = Field(default=224, ge=8, le=1024)
    """Side of the square that images are resized to, in pixels."""
    validation_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of each class's images that is split off for validation when there is no such folder."""
    test_share: float = Field(default=0.1, gt=0, lt=0.5)
    """Share of each class's images that is split off for the test when there is no such folder."""
    split_seed: int = Field(default=0, ge=0, lt=2**63)
    """Rules which images are split off."""
    # Left out of a recipe where it is the usual one: checkpoints of recipes that did not have it are continued.
    background: Colour = Field(default=WHITE, exclude_if=lambda colour: colour == WHITE)
    """Colour on which transparent pixels are laid: red, green and blue, 0 to 255."""

    def facts(self, roots: Sequence[Path]) -> ImageClassFacts | None:
        allowed = Roots(roots)
        folder = allowed.folder(self.path)
        if not allowed.are_here(folder):
            return None
        return self._facts(self._find(Files(folder, allowed)))

    def load(self, roots: Sequence[Path]) -> LoadedDataset:
        from retort.datasets._pictures import Folder, load_pictures

        allowed = Roots(roots)
        files = Files(allowed.folder(self.path), allowed)
        found = self._find(files)
        train, validation, test = (found.splits[split] for split in SPLITS)
        warnings = (*found.warnings, *stray_warning(found.stray))
        return load_pictures(self._facts(found), Folder(files.folder), train, validation, test, warnings)

    def _facts(self, found: FolderContents) -> ImageClassFacts:
        sizes = {name: len(images) for name, images in found.splits.items()}
        return ImageClassFacts(
            classes=len(found.class_names),
            class_names=found.class_names,
            image_size=self.image_size,
            decoding=Decoding(background=self.background),
            **sizes,
        )

    def _find(self, files: Files) -> FolderContents:
        if not files.folder.is_dir():
            raise DatasetError(f"{self.path!r} is not a folder")
        with reading(self.path):
            return self._listing(files)

    def _listing(self, files: Files) -> FolderContents:
        stray: list[str] = []
        try:
            found = read_folders([name.replace(os.sep, "/") for name in images_in(files, "", stray)])
        except DatasetError as error:
            raise DatasetError(
                f"{error}; image_folder has no such fields: `retort datasets create NAME {self.path} --on-workers` has"
            ) from None
        class_names = tuple(sorted(set(found.splits["train"].values())))
        if len(class_names) < 2:
            raise DatasetError(f"{self.path!r} holds {len(class_names)} class folders; at least 2 are needed")
        order = {name: label for label, name in enumerate(class_names)}
        splits: dict[str, list[Labelled]] = {}
        for split, images in found.splits.items():
            if strangers := set(images.values()).difference(order):
                raise DatasetError(f"the {split} split holds classes that training lacks: {sorted(strangers)}")
            splits[split] = sorted(((name, order[label]) for name, label in images.items()), key=itemgetter(1))
        shares = {"validation": self.validation_share, "test": self.test_share}
        missing = {split: share for split, share in shares.items() if split not in splits}
        splits |= take_splits(splits["train"], class_names, missing, self.split_seed)
        return FolderContents(class_names, splits, stray + found.stray, found.warnings)
