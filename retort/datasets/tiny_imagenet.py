"""Tiny ImageNet: 110,000 photographs of 200 classes of ImageNet, made small."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from retort.dataset import DatasetError, ImageClassFacts
from retort.datasets._fetch import Download
from retort.datasets._listing import Labelled, images_in
from retort.datasets._photographs import Listing, Photographs, held, told_apart
from retort.datasets._published import IMAGENET_MEAN, IMAGENET_STD, OfficialFacts
from retort.datasets._roots import Files

FOLDER = "tiny-imagenet-200"
ANNOTATIONS = "val/val_annotations.txt"
CLASSES = 200


class TinyImagenet(Photographs):
    """Tiny ImageNet, 64 x 64 pixels, 200 classes, 100,000 training images; its 10,000 validation images are the test.

    The official test split has no public labels.
    """

    source: ClassVar[str] = (
        "Le, Yang: Tiny ImageNet Visual Recognition Challenge, CS 231N, 2015, http://cs231n.stanford.edu; no licence "
        "stated, ImageNet's terms apply to its images"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(100_000, 10_000, IMAGENET_MEAN, IMAGENET_STD)
    downloads: ClassVar[tuple[Download, ...]] = (
        Download(
            ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",),
            "90528d7ca1a48142e341f4ef8d21d0de",
            FOLDER,
            tuple(
                f"{FOLDER}/{inside}"
                for inside in ("wnids.txt", "words.txt", "train/*/images/*.JPEG", ANNOTATIONS, "val/images/*.JPEG")
            ),
        ),
    )
    layout: ClassVar[str] = "wnids.txt, words.txt, train and val"
    inner_folders: ClassVar[tuple[str, ...]] = (FOLDER,)

    name: Literal["tiny_imagenet"] = "tiny_imagenet"
    image_size: int = Field(default=64, ge=8, le=1024)
    """Side of the square that images are resized to, in pixels; they have 64."""

    def _look(self, files: Files) -> ImageClassFacts | None:
        wnids = _wnids(files)
        if len(wnids) < CLASSES or not set(wnids) <= set(files.folders("train")):
            return super()._look(files)
        # As with ImageNet, its files are counted by load().
        files.file(ANNOTATIONS)
        return self._facts(_names(files, wnids), self.image_size, self.official.train, self.official.test)

    def _listing(self, files: Files) -> Listing:
        wnids = _wnids(files)
        labels = {wnid: label for label, wnid in enumerate(wnids)}
        stray: list[str] = []
        train = [
            (file, label)
            for wnid, label in labels.items()
            for file in images_in(files, f"train/{wnid}/images", stray)
        ]  # fmt: skip
        test = held(files, self._annotated(files, labels), ANNOTATIONS)
        return Listing(_names(files, wnids), train, test, stray)

    def _annotated(self, files: Files, labels: dict[str, int]) -> list[Labelled]:
        found = []
        for line in files.lines(ANNOTATIONS):
            image, wnid = [*line.split("\t"), ""][:2]
            if wnid not in labels:
                raise DatasetError(f"{ANNOTATIONS} gives {image!r} the class {wnid!r}, which wnids.txt does not name")
            found.append((f"val/images/{image}", labels[wnid]))
        return found


def _wnids(files: Files) -> list[str]:
    return sorted(set(files.lines("wnids.txt")))


def _names(files: Files, wnids: list[str]) -> tuple[str, ...]:
    words = dict(line.split("\t", 1) for line in files.lines("words.txt") if "\t" in line)
    return told_apart([words.get(wnid, wnid).partition(",")[0].strip() for wnid in wnids], wnids)
