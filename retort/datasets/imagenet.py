"""ImageNet: 1.3 million photographs of 1,000 classes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import ClassVar, Literal

from retort.dataset import DatasetError, ImageClassFacts
from retort.datasets._listing import images_in
from retort.datasets._photographs import Listing, Photographs, told_apart
from retort.datasets._published import IMAGENET_MEAN, IMAGENET_STD, OfficialFacts
from retort.datasets._roots import Files

NAMES = Path(__file__).with_name("imagenet_classes.tsv")
"""The WordNet identifier and the name of each class, in the order of published networks' outputs."""
CLASSES = 1000


class Imagenet(Photographs):
    """ImageNet (ILSVRC 2012), 1,000 classes, 1,281,167 training images; its 50,000 validation images are the test.

    The official test split has no public labels. A folder with fewer classes is a subset of it, in the same order.
    """

    source: ClassVar[str] = (
        "Russakovsky and others: ImageNet Large Scale Visual Recognition Challenge, 2015, "
        "https://arxiv.org/abs/1409.0575, https://image-net.org; for research, on request"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(1_281_167, 50_000, IMAGENET_MEAN, IMAGENET_STD)
    layout: ClassVar[str] = "train and val, each with a folder a class, named by its WordNet identifier (n01440764)"
    inner_folders: ClassVar[tuple[str, ...]] = ("ILSVRC/Data/CLS-LOC",)

    name: Literal["imagenet"] = "imagenet"

    def _look(self, files: Files) -> ImageClassFacts | None:
        wnids = self._classes(files)
        if len(wnids) < CLASSES:
            return super()._look(files)
        # Counting a million files takes its while; load() does, and refuses if some are missing.
        return self._facts(_names(wnids), self.image_size, self.official.train, self.official.test)

    def _listing(self, files: Files) -> Listing:
        wnids = self._classes(files)
        stray: list[str] = []
        train, test = (
            [(file, label) for label, wnid in enumerate(wnids) for file in images_in(files, f"{split}/{wnid}", stray)]
            for split in ("train", "val")
        )
        return Listing(_names(wnids), train, test, stray)

    def _classes(self, files: Files) -> list[str]:
        wnids = files.folders("train")
        if not 2 <= len(wnids) <= CLASSES:
            raise DatasetError(f"train holds {len(wnids)} class folders; 2 to {CLASSES} are wanted")
        missing = sorted(set(wnids).difference(files.folders("val")))
        if missing:
            raise DatasetError(f"val has no folder {missing[0]!r}, which train has; each class needs one in both")
        return wnids


def _names(wnids: list[str]) -> tuple[str, ...]:
    known = _known_names()
    return told_apart([known.get(wnid, wnid) for wnid in wnids], wnids)


@cache
def _known_names() -> dict[str, str]:
    return dict(line.split("\t", 1) for line in NAMES.read_text("utf-8").splitlines())
