"""CUB-200-2011: 11,788 photographs of 200 species of birds."""

from __future__ import annotations

from typing import ClassVar, Literal

from retort.dataset import DatasetError
from retort.datasets._fetch import Download
from retort.datasets._listing import Labelled
from retort.datasets._photographs import Listing, Photographs, held, told_apart
from retort.datasets._published import IMAGENET_MEAN, IMAGENET_STD, OfficialFacts
from retort.datasets._roots import Files

FOLDER = "CUB_200_2011"
IMAGES, LABELS, SPLIT, CLASSES = "images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"


class Cub200(Photographs):
    """CUB-200-2011, birds, 200 classes, 5,994 training and 5,794 test images; boxes and attributes are not read."""

    source: ClassVar[str] = (
        "Wah, Branson, Welinder, Perona, Belongie: The Caltech-UCSD Birds-200-2011 Dataset, 2011, "
        "https://www.vision.caltech.edu/datasets/cub_200_2011; for research and teaching"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(5994, 5794, IMAGENET_MEAN, IMAGENET_STD)
    downloads: ClassVar[tuple[Download, ...]] = (
        Download(
            ("https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",),
            "97eceeb196236b17998738112f37df78",
            FOLDER,
            tuple(f"{FOLDER}/{inside}" for inside in (IMAGES, LABELS, SPLIT, CLASSES, "images/*.jpg")),
        ),
    )
    layout: ClassVar[str] = f"images, {IMAGES}, {LABELS}, {SPLIT} and {CLASSES}"
    inner_folders: ClassVar[tuple[str, ...]] = (FOLDER,)

    name: Literal["cub200"] = "cub200"

    def _listing(self, files: Files) -> Listing:
        images, labels, membership, classes = (_pairs(files, name) for name in (IMAGES, LABELS, SPLIT, CLASSES))
        order = {key: label for label, key in enumerate(classes)}
        splits: dict[str, list[Labelled]] = {"1": [], "0": []}
        for key, file in images.items():
            if labels.get(key) not in order:
                raise DatasetError(f"{LABELS} gives image {key} the class {labels.get(key)}, which {CLASSES} lacks")
            if membership.get(key) not in splits:
                raise DatasetError(
                    f"{SPLIT} has {membership.get(key)} for image {key}; wanted 1 (training) or 0 (test)"
                )
            splits[membership[key]].append((f"images/{file}", order[labels[key]]))
        named = [name.partition(".")[2].replace("_", " ") or name for name in classes.values()]
        train, test = (held(files, splits[wanted], IMAGES) for wanted in ("1", "0"))
        return Listing(told_apart(named, list(classes)), train, test)


def _pairs(files: Files, name: str) -> dict[str, str]:
    """A list of lines of two words each: a key and what it stands for."""
    lines = [line.split(maxsplit=1) for line in files.lines(name)]
    short = next((number for number, line in enumerate(lines, 1) if len(line) != 2), None)
    if short is not None:
        raise DatasetError(f"line {short} of {name} has one word; a number and what it stands for are wanted")
    return dict(lines)
