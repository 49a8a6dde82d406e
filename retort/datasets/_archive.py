"""The archive that a data set is stored as: a plain tar of `dataset.json`, `index.jsonl` and the images. No torch.

The same images, names and facts give the same bytes. Images lie at `<part>/<label>/<number>.<ending>`, in the order of
the index, so that the place of each follows from the sizes before it and any of them is read alone.
"""

from __future__ import annotations

import json
import os
import tarfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydantic import AliasChoices, Field

from retort.dataset import Channels, DatasetError, Decoding, ImageClassFacts
from retort.datasets._listing import Labelled
from retort.spec import Spec

FORMAT = 1
DESCRIPTION, INDEX = "dataset.json", "index.jsonl"
SPLITS = ("train", "validation", "test")
BLOCK = tarfile.BLOCKSIZE
COPIED = 1 << 20
"""Bytes that are in memory at once while a file is copied."""


class SplitDescription(Spec):
    """One split of a stored data set."""

    images: int
    bytes: int
    digest: str
    """sha256, hex, of the labels and the sha256 of each file, in order."""


class ArchiveDescription(Spec):
    """The contents of `dataset.json`."""

    format: int = FORMAT
    class_names: tuple[str, ...]
    """Name of each class, in label order."""
    image_size: int
    """Side of the square that images are resized to unless a recipe gives another, in pixels."""
    mean: Channels
    """Mean of each channel over the training split's squares, in [0, 1]."""
    std: Channels
    """Standard deviation likewise."""
    decoding: Decoding | None = None
    """The making of its images of the files; archives of before version 0.3 have none, and their images are made as
    they were then."""
    splits: dict[str, SplitDescription] = Field(validation_alias=AliasChoices("splits", "parts"))
    """By name: train, validation, test. Archives of version 0.1 have `parts`."""

    def facts(self) -> ImageClassFacts:
        """Facts of the data set at its own image size."""
        counts = {name: self.splits[name].images for name in SPLITS}
        return ImageClassFacts(
            classes=len(self.class_names), class_names=self.class_names, image_size=self.image_size, mean=self.mean,
            std=self.std, decoding=self.decoding, **counts,
        )  # fmt: skip


@dataclass(frozen=True)
class PackedFile:
    """An image that is to be put into an archive."""

    split: str
    label: int
    ending: str
    """By its content, not by its former name: `.jpg`, say."""
    size: int
    """In bytes."""
    source: str
    """Name of its file in the upload."""


def write_archive(
    path: Path, description: ArchiveDescription, images: Sequence[PackedFile], contents: Iterable[Iterable[bytes]]
) -> None:
    """Write an archive; `contents` gives each image's bytes, in blocks, in the order of `images`."""
    listed = [(_name(image, number), image) for number, image in enumerate(images)]
    index = "".join(json.dumps([name, image.size, image.source]) + "\n" for name, image in listed).encode()
    with path.open("wb") as file:
        _write(file, DESCRIPTION, [description.model_dump_json(indent=2).encode() + b"\n"])
        _write(file, INDEX, [index])
        for (name, image), blocks in zip(listed, contents, strict=True):
            _write(file, name, blocks, image.size)
        file.write(bytes(2 * BLOCK))


class Archive:
    """An archive that was written so, read where it lies; several threads may. Raises DatasetError for another file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)
        try:
            described, begins = self._member(DESCRIPTION, 0)
            self.description = ArchiveDescription.model_validate_json(described)
            if self.description.format != FORMAT:
                raise ValueError(f"its format is {self.description.format}; {FORMAT} is read here")
            self._index, self._begins = self._member(INDEX, begins)
        except (ValueError, tarfile.TarError) as error:
            raise DatasetError(f"{path.name} is not a stored data set: {error}") from error

    def open(self, file: str) -> BytesIO:
        """An image's bytes, by its name in the archive."""
        return BytesIO(self._read(*self._places[file]))

    def listed(self) -> dict[str, list[Labelled]]:
        """The images of each split with their labels, in order."""
        splits: dict[str, list[Labelled]] = {split: [] for split in SPLITS}
        for file in self._places:
            split, label, _ = file.split("/")
            splits[split].append((file, int(label)))
        return splits

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Begin and length of each image's bytes."""
        places: dict[str, tuple[int, int]] = {}
        place = self._begins
        for line in self._index.splitlines():
            name, size, _ = json.loads(line)
            places[name] = (place + BLOCK, size)
            place += BLOCK + _padded(size)
        return places

    def _member(self, name: str, place: int) -> tuple[bytes, int]:
        """The bytes of the member that begins there, and where the next one does."""
        info = tarfile.TarInfo.frombuf(self._read(place, BLOCK), "ascii", "strict")
        if info.name != name:
            raise ValueError(f"it holds {info.name!r} where {name} was wanted")
        return self._read(place + BLOCK, info.size), place + BLOCK + _padded(info.size)

    def _read(self, place: int, size: int) -> bytes:
        return b"".join(in_blocks(self._descriptor, place, size))


def _name(image: PackedFile, number: int) -> str:
    return f"{image.split}/{image.label:05d}/{number:08d}{image.ending}"


def _write(file: BinaryIO, name: str, blocks: Iterable[bytes], size: int | None = None) -> None:
    blocks = list(blocks) if size is None else blocks
    info = tarfile.TarInfo(name)
    info.size = sum(map(len, blocks)) if size is None else size
    info.mode = 0o644
    file.write(info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict"))
    written = 0
    for block in blocks:
        written += file.write(block)
    if written != info.size:
        raise ValueError(f"{name} has {written} bytes; {info.size} were announced")
    file.write(bytes(_padded(written) - written))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def in_blocks(descriptor: int, place: int, size: int) -> Iterator[bytes]:
    """Bytes of an open file, from there on, a block at a time."""
    end = place + size
    while place < end:
        block = os.pread(descriptor, min(COPIED, end - place), place)
        if not block:
            raise OSError("a file that was being read was cut short")
        yield block
        place += len(block)
