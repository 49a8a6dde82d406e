"""A data set whose images lie in files: decoded once into memory if they fit there, else at each request.

Either way the same images, statistics and digest come out.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest, sha256
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from retort.dataset import DatasetError, ImageClassFacts, LoadedDataset, Split
from retort.datasets._listing import Labelled, first_few, short
from retort.datasets._memory import MemorySplit, with_statistics
from retort.datasets._split import drawn_order
from retort.limits import memory, processors

MEMORY_SHARE = 0.4
"""Share of the machine's memory up to which decoded images are kept there."""
MOST_PIXELS = 50_000_000
"""Pixels of the largest image that is decoded, a JPEG's after its reduction: a small file can claim any number."""
SAMPLE = 5000
"""Images of the training split on which statistics are measured; all of them if it has fewer."""
SAMPLE_BATCH = 100
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are decoded, whatever a file's name: Pillow has others, which run other programs."""
WARNED_PIXELS = 89_478_485
"""Pillow refuses twice as many by an image's header, before any memory is taken; it is set here, lest its default
change. Of what it warns of, JPEGs that are decoded at an eighth of it are welcome."""
QUEUED = 1000
"""Files that wait for a thread at once; a stop waits for no more of them."""


OpenFile = BufferedReader | BytesIO


class Source(Protocol):
    """A place of image files. Several threads may read it."""

    def open(self, file: str) -> OpenFile:
        """A file's bytes, by the name under which it is listed."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder as a source; files are named relative to it."""

    path: Path

    def open(self, file: str) -> OpenFile:
        return (self.path / file).open("rb")


Image.MAX_IMAGE_PIXELS = WARNED_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class StreamedSplit:
    """Labelled images that are decoded by some threads at each request; nothing of them is kept."""

    def __init__(self, source: Source, listed: Sequence[Labelled], side: int) -> None:
        self._source = source
        self._files = [file for file, _ in listed]
        self._side = side
        self.targets = _labels(listed)

    def __len__(self) -> int:
        return len(self._files)

    def inputs(self, indices: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB images at those (N,) int64 positions. Raises DatasetError."""
        wanted = [self._files[position] for position in indices.tolist()]
        return torch.from_numpy(decode(self._source, wanted, self._side))


def load_pictures(
    facts: ImageClassFacts,
    source: Source,
    train: Sequence[Labelled],
    validation: Sequence[Labelled] | None,
    test: Sequence[Labelled],
    warnings: tuple[str, ...],
    checked: str | None = None,
) -> LoadedDataset:
    """The images in the files that are listed, scaled and cropped; without a list for validation the test split is it.

    `checked` is a digest of all files and labels if it was computed, and each image looked at, before.
    Mean and deviation, where the facts do not give them, are those of at most 5,000 images of the training split, which
    a fixed seed draws. Raises DatasetError with the names of files that are not images.
    """
    lists = [train, test] if validation is None else [train, validation, test]
    every = [file for split in lists for file, _ in split]
    side = facts.image_size
    fit = len(every) * 3 * side * side <= memory_budget()
    taken = _digest(source, lists, side, look=not fit) if checked is None else _digest_of_checked(checked, side)
    splits: list[Split] = []
    if fit:
        pixels = torch.from_numpy(decode(source, every, side))
        for some, listed in zip(torch.split(pixels, [len(split) for split in lists]), lists, strict=True):
            splits.append(MemorySplit(some, _labels(listed)))
    else:
        splits += [StreamedSplit(source, listed, side) for listed in lists]
    if facts.mean is None:
        facts = with_statistics(facts, _sample(splits[0]))
    return LoadedDataset(facts, splits[0], splits[1], splits[-1], taken, warnings)


def memory_budget() -> int:
    """Bytes that decoded images may take: a share of what this machine or container has."""
    return int(MEMORY_SHARE * memory())


def decode(source: Source, files: Sequence[str], side: int) -> NDArray[np.uint8]:
    """(M, 3, side, side) uint8: every image, scaled and cropped. Raises DatasetError with the names of broken files."""
    shape = (len(files), 3, side, side)
    try:
        pixels = np.empty(shape, dtype=np.uint8)
    except MemoryError as error:
        raise DatasetError(
            f"{len(files)} images of {side} pixels a side do not fit into memory: "
            f"they take {np.prod(shape, dtype=np.int64) / 2**30:.0f} GiB"
        ) from error
    broken: list[str] = []

    def put(number: int) -> None:
        try:
            with source.open(files[number]) as file, opened(file) as image:
                pixels[number] = square(upright(image, side), side)
        except Exception as error:  # a decoder's error on a hostile file may be anything
            broken.append(_told(files[number], error))

    for start in range(0, len(files), QUEUED):
        list(threads().map(put, range(start, min(start + QUEUED, len(files)))))
    _refuse(broken, len(files))
    return pixels


def opened(file: OpenFile) -> Image.Image:
    """An image by its header, not decoded yet. Raises ValueError for what is none, whatever it is called."""
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"its header claims more than {2 * WARNED_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ValueError(f"no image of a kind that is read: {', '.join(FORMATS)}") from None


def upright(image: Image.Image, side: int) -> Image.Image:
    """An image decoded, in RGB, turned by its EXIF data; at least of twice that side if it has so many pixels.

    Raises ValueError for a huge one, and whatever its decoder does for a broken one.
    """
    _refuse_costly(image)
    # JPEGs are decoded at the nearest larger eighth: half the time, and what makes a square of it does the rest.
    image.draft("RGB", (2 * side, 2 * side))
    _refuse_huge(image)
    return ImageOps.exif_transpose(image).convert("RGB")


def square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """(3, side, side) uint8 RGB: the upright image scaled until its shorter side fits, its middle taken."""
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def _refuse_costly(image: Image.Image) -> None:
    """Refuse images that take more memory than their size: a JPEG in scans is held whole, a tile is, too."""
    if image.info.get("progressive"):
        _refuse_huge(image)
    tags = getattr(image, "tag_v2", {})
    wide, high = (tags.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    if wide * high > MOST_PIXELS:
        raise ValueError(f"its tiles have {wide} x {high} pixels; at most {MOST_PIXELS:,} are decoded")


def _refuse_huge(image: Image.Image) -> None:
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are decoded")


def _digest_of_checked(digest: str, side: int) -> str:
    return sha256(f"{digest}, {_way(side)}".encode()).hexdigest()


def _way(side: int) -> str:
    """The resizing of images to their size."""
    return f"{side} pixels a side, Pillow {PIL.__version__}"


def _digest(source: Source, lists: Sequence[Sequence[Labelled]], side: int, *, look: bool) -> str:
    """sha256, hex, of the files' names, bytes and labels in order, and of the resizing.

    With `look`, each must begin as an image does: whether it ends as one is seen when it is decoded.
    """
    broken: list[str] = []

    def take(file: str) -> bytes:
        try:
            with source.open(file) as content:
                if look:
                    with opened(content) as image:
                        image.draft("RGB", (2 * side, 2 * side))
                        _refuse_huge(image)
            with source.open(file) as content:
                return file_digest(content, "sha256").digest()
        except Exception as error:  # as above
            broken.append(_told(file, error))
            return b""

    made = sha256(_way(side).encode())
    for listed in lists:
        made.update(f"\0{len(listed)}".encode())
        for start in range(0, len(listed), QUEUED):
            some = listed[start : start + QUEUED]
            for (file, label), content in zip(some, threads().map(take, (file for file, _ in some)), strict=True):
                made.update(f"\0{file}\0{label}\0".encode(errors="surrogateescape") + content)
    _refuse(broken, sum(map(len, lists)))
    return made.hexdigest()


def _sample(train: Split) -> Iterator[Tensor]:
    """The images that statistics are measured on, a batch at a time."""
    drawn = sorted(drawn_order(len(train), 0, "statistics")[:SAMPLE])
    for positions in torch.split(torch.tensor(drawn, dtype=torch.int64), SAMPLE_BATCH):
        yield train.inputs(positions)


def _labels(listed: Sequence[Labelled]) -> Tensor:
    return torch.tensor([label for _, label in listed], dtype=torch.int64)


def _told(file: str, error: Exception) -> str:
    return f"{short(file)} ({error})"


def _refuse(broken: list[str], count: int) -> None:
    if broken:
        raise DatasetError(f"{len(broken)} of {count} images cannot be read: {first_few(broken)}")


@cache
def threads() -> ThreadPoolExecutor:
    """The threads that decode images, one a processor."""
    return ThreadPoolExecutor(processors(), thread_name_prefix="decoding")
