"""Stanford 40 Actions: 9,532 photographs of people who do one of 40 things."""

from __future__ import annotations

from typing import ClassVar, Literal

from retort.dataset import DatasetError
from retort.datasets._listing import Labelled
from retort.datasets._photographs import Listing, Photographs, held
from retort.datasets._published import IMAGENET_MEAN, IMAGENET_STD, OfficialFacts
from retort.datasets._roots import Files

ACTIONS = "ImageSplits/actions.txt"


class Stanford40(Photographs):
    """Stanford 40 Actions, 40 classes, 4,000 training and 5,532 test images; boxes are not read."""

    source: ClassVar[str] = (
        "Yao, Jiang, Khosla, Lin, Guibas, Fei-Fei: Human Action Recognition by Learning Bases of Action Attributes and "
        "Parts, 2011, http://vision.stanford.edu/Datasets/40actions.html; no licence stated"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(4000, 5532, IMAGENET_MEAN, IMAGENET_STD)
    layout: ClassVar[str] = "JPEGImages and ImageSplits with actions.txt and <action>_train.txt and _test.txt"

    name: Literal["stanford40"] = "stanford40"

    def _listing(self, files: Files) -> Listing:
        # The first line names the columns.
        actions = sorted({line.split()[0] for line in files.lines(ACTIONS)[1:]})
        if len(actions) < 2:
            raise DatasetError(f"{ACTIONS} names {len(actions)} actions below its first line; at least 2 are wanted")
        return Listing(tuple(actions), _part(files, actions, "train"), _part(files, actions, "test"))


def _part(files: Files, actions: list[str], split: str) -> list[Labelled]:
    found: list[Labelled] = []
    for label, action in enumerate(actions):
        name = f"ImageSplits/{action}_{split}.txt"
        found += held(files, [(f"JPEGImages/{image}", label) for image in files.lines(name)], name)
    return found
