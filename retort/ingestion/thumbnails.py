"""Small images of each class on one sheet: a row a class, in the order of their labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from PIL import Image

from retort.dataset import WHITE, Decoding
from retort.datasets._decoding import opened, square, upright
from retort.datasets._listing import Labelled
from retort.datasets._pictures import threads
from retort.ingest import THUMBNAILS

SIDE = 64
"""Pixels."""
PER_CLASS = 3
MOST_CLASSES = 1000
"""Rows of the sheet: a JPEG has 65,500 lines at most."""


@dataclass(frozen=True)
class Thumbnails:
    """A sheet of small images."""

    content: bytes
    """A JPEG."""
    described: dict[str, Any]
    """The places on it, as JSON: the images of class number `n` stand side by side `n * side` pixels from the top."""


def draw_thumbnails(train: Sequence[Labelled], content_of: Callable[[str], bytes], decoding: Decoding) -> Thumbnails:
    """The first training images of each class, as they are decoded for training; a function of those alone."""
    chosen: dict[int, list[str]] = defaultdict(list)
    for name, label in train:
        if label < MOST_CLASSES and len(chosen[label]) < PER_CLASS:
            chosen[label].append(name)
    rows = max(chosen) + 1
    sheet = Image.new("RGB", (PER_CLASS * SIDE, rows * SIDE), WHITE)

    def draw(name: str) -> Image.Image:
        with opened(BytesIO(content_of(name))) as image:
            return Image.fromarray(square(upright(image, SIDE, decoding), SIDE).transpose(1, 2, 0))

    places = [(label, column, name) for label, names in chosen.items() for column, name in enumerate(names)]
    drawn = threads().map(draw, (name for _, _, name in places))
    for (label, column, _), small in zip(places, drawn, strict=True):
        sheet.paste(small, (column * SIDE, label * SIDE))
    out = BytesIO()
    sheet.save(out, "JPEG", quality=85)
    described = {"artifact": THUMBNAILS, "side": SIDE, "per_class": PER_CLASS, "classes": rows}
    return Thumbnails(out.getvalue(), described)
