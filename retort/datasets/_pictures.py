"""A data set whose images lie in files: decoded once into memory if they fit there, else at each request.

Either way the same images, statistics and digest come out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Protocol

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor

from retort.dataset import DatasetError, Decoding, ImageClassFacts, LoadedDataset, Split
from retort.datasets._decoding import OpenFile, deep_range, opened, refuse_huge, square, upright
from retort.datasets._deep import DeepRange, white_of
from retort.datasets._listing import Labelled, first_few, short
from retort.datasets._memory import MemorySplit, with_statistics
from retort.datasets._split import drawn_order
from retort.limits import memory, processors

MEMORY_SHARE = 0.4
"""Share of the machine's memory up to which decoded images are kept there."""
SAMPLE = 5000
"""Images of the training split on which statistics are measured; all of them if it has fewer."""
SAMPLE_BATCH = 100
QUEUED = 1000
"""Files that wait for a thread at once; a stop waits for no more of them."""


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


class StreamedSplit:
    """Labelled images that are decoded by some threads at each request; nothing of them is kept."""

    def __init__(self, source: Source, listed: Sequence[Labelled], side: int, decoding: Decoding | None = None) -> None:
        self._source = source
        self._files = [file for file, _ in listed]
        self._side = side
        self._decoding = decoding
        self.targets = _labels(listed)

    def __len__(self) -> int:
        return len(self._files)

    def inputs(self, indices: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 RGB images at those (N,) int64 positions. Raises DatasetError."""
        wanted = [self._files[position] for position in indices.tolist()]
        return torch.from_numpy(decode(self._source, wanted, self._side, self._decoding))


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
    a fixed seed draws. The white of images of more than 8 bits is measured on all of them where the facts have a
    decoding and not it. Raises DatasetError with the names of files that are not images.
    """
    lists = [train, test] if validation is None else [train, validation, test]
    every = [file for split in lists for file, _ in split]
    side = facts.image_size
    fit = len(every) * 3 * side * side <= memory_budget()
    way, decoding = _way(side), facts.decoding
    if checked is None and decoding is not None:
        white, clear = _measure(source, every)
        decoding = decoding.model_copy(update={"white": white})
        facts = facts.model_copy(update={"decoding": decoding})
        # Left out where it makes no difference, so that checkpoints of version 0.2 are continued.
        way += f", {decoding.model_dump_json()}" if clear or white is not None else ""
    taken = _digest(source, lists, side, way, look=not fit) if checked is None else _digest_of_checked(checked, way)
    splits: list[Split] = []
    if fit:
        pixels = torch.from_numpy(decode(source, every, side, decoding))
        for some, listed in zip(torch.split(pixels, [len(split) for split in lists]), lists, strict=True):
            splits.append(MemorySplit(some, _labels(listed)))
    else:
        splits += [StreamedSplit(source, listed, side, decoding) for listed in lists]
    if facts.mean is None:
        facts = with_statistics(facts, _sample(splits[0]))
    return LoadedDataset(facts, splits[0], splits[1], splits[-1], taken, warnings)


def memory_budget() -> int:
    """Bytes that decoded images may take: a share of what this machine or container has."""
    return int(MEMORY_SHARE * memory())


def decode(source: Source, files: Sequence[str], side: int, decoding: Decoding | None = None) -> NDArray[np.uint8]:
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
                pixels[number] = square(upright(image, side, decoding), side)
        except Exception as error:  # a decoder's error on a hostile file may be anything
            broken.append(_told(files[number], error))

    for start in range(0, len(files), QUEUED):
        list(threads().map(put, range(start, min(start + QUEUED, len(files)))))
    _refuse(broken, len(files))
    return pixels


def _measure(source: Source, files: Sequence[str]) -> tuple[float | None, bool]:
    """The white of the images of more than 8 bits among these, and whether one may have transparent pixels.

    Files that cannot be read are named when they are decoded.
    """
    ranges: dict[str, DeepRange] = {}
    clear = False

    def look(file: str) -> None:
        nonlocal clear
        with suppress(Exception), source.open(file) as content, opened(content) as image:
            clear |= image.has_transparency_data
            if (found := deep_range(image)) is not None:
                ranges[file] = found

    for start in range(0, len(files), QUEUED):
        list(threads().map(look, files[start : start + QUEUED]))
    return white_of(dict(sorted(ranges.items()))), clear


def _digest_of_checked(digest: str, way: str) -> str:
    return sha256(f"{digest}, {way}".encode()).hexdigest()


def _way(side: int) -> str:
    """The resizing of images to their size."""
    return f"{side} pixels a side, Pillow {PIL.__version__}"


def _digest(source: Source, lists: Sequence[Sequence[Labelled]], side: int, way: str, *, look: bool) -> str:
    """sha256, hex, of the files' names, bytes and labels in order, and of the way to their pixels.

    With `look`, each must begin as an image does: whether it ends as one is seen when it is decoded.
    """
    broken: list[str] = []

    def take(file: str) -> bytes:
        try:
            with source.open(file) as content:
                if look:
                    with opened(content) as image:
                        image.draft("RGB", (2 * side, 2 * side))
                        refuse_huge(image)
            with source.open(file) as content:
                return file_digest(content, "sha256").digest()
        except Exception as error:  # as above
            broken.append(_told(file, error))
            return b""

    made = sha256(way.encode())
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
