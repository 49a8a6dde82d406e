"""The format of MNIST and of sets made like it: IDX files of grey images and labels. No torch at import."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, ClassVar, cast

from retort.dataset import DatasetError
from retort.datasets._fetch import Download
from retort.datasets._published import Arrays
from retort.datasets._roots import Files

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 28
TRAIN, TEST = "train", "t10k"
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
UNSIGNED_BYTES = 8
"""The third byte of the magic number."""


class Idx(Arrays):
    """Base of MNIST and the like: grey images of 28 x 28 pixels, repeated in three channels."""

    image_size: ClassVar[int] = SIDE
    layout: ClassVar[str] = f"{TRAIN}-{IMAGES}, {TRAIN}-{LABELS}, {TEST}-{IMAGES} and {TEST}-{LABELS}, or each as .gz"

    def _count(self, files: Files) -> tuple[int, int]:
        return self._count_part(files, TRAIN), self._count_part(files, TEST)

    def _count_part(self, files: Files, split: str) -> int:
        counts = []
        for kind, shape in ((IMAGES, (SIDE, SIDE)), (LABELS, ())):
            file = _either(files, f"{split}-{kind}")
            with _opened(file) as content:
                counts.append(_count(content, file.name, shape))
        images, labels = counts
        if images != labels:
            raise DatasetError(f"{split}-{IMAGES} has {images:,} images, {split}-{LABELS} has {labels:,} labels")
        return images

    def _read(self, files: Files) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        return self._read_part(files, TRAIN), self._read_part(files, TEST)

    def _read_part(self, files: Files, split: str) -> tuple[Tensor, Tensor]:
        grey = _numbers(_either(files, f"{split}-{IMAGES}"), (SIDE, SIDE))
        name = f"{split}-{LABELS}"
        labels = _numbers(_either(files, name), ()).long()
        self._refuse_labels(name, labels)
        return grey.unsqueeze(1).expand(-1, 3, -1, -1).contiguous(), labels


def idx_downloads(mirrors: Sequence[str], md5s: Sequence[str]) -> tuple[Download, ...]:
    """The four files: training images and labels, test images and labels."""
    names = [f"{split}-{kind}.gz" for split in (TRAIN, TEST) for kind in (IMAGES, LABELS)]
    return tuple(
        Download(tuple(f"{mirror}{name}" for mirror in mirrors), md5) for name, md5 in zip(names, md5s, strict=True)
    )


def _either(files: Files, name: str) -> Path:
    return files.file(name if files.hold(name) or not files.hold(f"{name}.gz") else f"{name}.gz")


def _opened(file: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(file)) if file.suffix == ".gz" else file.open("rb")


def _count(content: IO[bytes], name: str, shape: tuple[int, ...]) -> int:
    """Number of arrays of that shape in an IDX file's header. Raises DatasetError if it is not one."""
    dimensions = 1 + len(shape)
    head = _exactly(content, 4 + 4 * dimensions, name)
    zero, kind, found, *sizes = struct.unpack(f">HBB{dimensions}I", head)
    if (zero, kind, found, tuple(sizes[1:])) != (0, UNSIGNED_BYTES, dimensions, shape):
        wanted = " x ".join(map(str, ("N", *shape)))
        raise DatasetError(f"{name} begins with {head.hex(' ', 4)}; an IDX file of {wanted} bytes was wanted")
    return int(sizes[0])


def _numbers(file: Path, shape: tuple[int, ...]) -> Tensor:
    """(N, *shape) uint8: all arrays of an IDX file. Raises DatasetError if it is cut short or too long."""
    import torch

    with _opened(file) as content:
        count = _count(content, file.name, shape)
        numbers = _exactly(content, count * math.prod(shape), file.name)
        if content.read(1):
            raise DatasetError(f"{file.name} goes on after the {count:,} arrays that it announces")
    return torch.frombuffer(numbers, dtype=torch.uint8).view(count, *shape)


def _exactly(content: IO[bytes], size: int, name: str) -> bytearray:
    try:
        found = bytearray(content.read(size))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{name} cannot be unpacked: {error}") from error
    if len(found) < size:
        raise DatasetError(f"{name} is cut short: {size:,} more bytes were wanted, {len(found):,} came")
    return found
