"""Inspection of one image: decoded as in training, so that an image that passes here can be trained on."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b, sha256
from io import BytesIO

import numpy as np
from PIL import ExifTags

from retort.datasets._pictures import opened, square, upright

ENDINGS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "MPO": ".jpg"}
"""Endings of stored files, by format."""
SAME = {".jpeg": ".jpg", ".tiff": ".tif"}
"""Other endings for the same."""
DEEP_MODES = ("I", "F")
"""Beginnings of Pillow's names of modes with more than eight bits a channel."""
LARGEST_FILE = 128 << 20
"""Bytes of the largest image file that is decoded."""


@dataclass(frozen=True, slots=True)
class ImageFindings:
    """Findings about an image."""

    sha256: bytes
    """Of its file."""
    pixels: bytes
    """16 bytes that two images share when they are the same picture, whatever their files."""
    format: str
    mode: str
    """In Pillow's words: RGB, L, CMYK, ..."""
    width: int
    height: int
    turned: bool
    """Whether it is to be turned or mirrored by its EXIF data."""
    animated: bool
    """Whether it has several frames; the first is taken."""
    sums: tuple[int, int, int]
    """Of each channel's values, 0 to 255, over the square that training sees."""
    squares: tuple[int, int, int]
    """Of their squares."""

    @property
    def ending(self) -> str:
        return ENDINGS[self.format]

    @property
    def deep(self) -> bool:
        """Whether it has more than eight bits a channel, which are cut."""
        return self.mode.startswith(DEEP_MODES)


def inspect_image(content: bytes, side: int) -> ImageFindings:
    """Decode an image. Raises any error of its decoder for one that is broken, hostile or of another format."""
    if not content:
        raise ValueError("the file is empty")
    with opened(BytesIO(content)) as image:
        kind, mode, (width, height) = image.format or "", image.mode, image.size
        # Photographs of some telephones hold further pictures besides (MPO), which are not frames.
        animated = kind != "MPO" and bool(getattr(image, "is_animated", False))
        picture = upright(image, side)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    values = square(picture, side).reshape(3, -1).astype(np.int64)
    sums, squares = values.sum(1).tolist(), (values**2).sum(1).tolist()
    seen = blake2b(f"{picture.size}".encode(), digest_size=16)
    seen.update(picture.tobytes())
    return ImageFindings(
        sha256(content).digest(), seen.digest(), kind, mode, width, height, turned, animated, tuple(sums),
        tuple(squares),
    )  # fmt: skip


def misnamed(name: str, findings: ImageFindings) -> bool:
    """Whether a file is called by the ending of another format."""
    ending = f".{name.rpartition('.')[2].lower()}"
    return SAME.get(ending, ending) != findings.ending
