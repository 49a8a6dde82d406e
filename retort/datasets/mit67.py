"""MIT Indoor 67: photographs of 67 kinds of rooms."""

from __future__ import annotations

from typing import ClassVar, Literal

from retort.dataset import DatasetError
from retort.datasets._listing import Labelled
from retort.datasets._photographs import Listing, Photographs, held
from retort.datasets._published import IMAGENET_MEAN, IMAGENET_STD, OfficialFacts
from retort.datasets._roots import Files

TRAIN, TEST = "TrainImages.txt", "TestImages.txt"


class Mit67(Photographs):
    """MIT Indoor 67, rooms, 67 classes, the 5,360 training and 1,340 test images of the published lists."""

    source: ClassVar[str] = (
        "Quattoni, Torralba: Recognizing Indoor Scenes, 2009, https://web.mit.edu/torralba/www/indoor.html; no licence "
        "stated"
    )
    official: ClassVar[OfficialFacts] = OfficialFacts(5360, 1340, IMAGENET_MEAN, IMAGENET_STD)
    layout: ClassVar[str] = f"Images, {TRAIN} and {TEST}"

    name: Literal["mit67"] = "mit67"

    def _listing(self, files: Files) -> Listing:
        names = sorted({line.partition("/")[0] for line in files.lines(TRAIN)})
        order = {name: label for label, name in enumerate(names)}
        train, test = (held(files, _labelled(files, name, order), name) for name in (TRAIN, TEST))
        return Listing(tuple(names), train, test)


def _labelled(files: Files, name: str, order: dict[str, int]) -> list[Labelled]:
    found = []
    for line in files.lines(name):
        room = line.partition("/")[0]
        if room not in order:
            raise DatasetError(f"{name} names the class {room!r}, which {TRAIN} lacks")
        found.append((f"Images/{line}", order[room]))
    return found
