"""Inspection of one image: decoded as in training, so that an image that passes here can be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from io import BytesIO
from pathlib import PurePosixPath

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from retort.dataset import Decoding
from retort.datasets._decoding import deep_range, opened, square, upright
from retort.datasets._deep import DeepRange, is_deep
from retort.datasets._picture_formats import ENDINGS

SAME = {
    **dict.fromkeys((".jpeg", ".jpe", ".jif", ".jfif", ".jpg_large", ".mpo"), ".jpg"),
    **dict.fromkeys((".apng", ".png_large"), ".png"),
    **dict.fromkeys((".pgm", ".pbm", ".pnm", ".pfm"), ".ppm"),
    **{".tiff": ".tif", ".dib": ".bmp"},
}
"""Other endings for the same format."""
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
    deep: bool
    """Whether it has more than eight bits a channel, which are scaled to eight."""
    transparent: bool
    """Whether some of its pixels are not opaque."""
    extra_bands: bool
    """Whether it has bands besides its colours that are no opacity, and are left out."""
    area: int
    """Pixels of the square that training sees."""
    sums: tuple[int, int, int]
    """Of each channel's values, 0 to 255, over that square."""
    squares: tuple[int, int, int]
    """Of their squares."""

    @property
    def ending(self) -> str:
        return ENDINGS["JPEG" if self.format == "MPO" else self.format]

    @property
    def one_colour(self) -> bool:
        """Whether that square has one colour everywhere."""
        return all(self.area * square == total**2 for total, square in zip(self.sums, self.squares, strict=True))

    def mean(self, channel: int) -> float:
        """Of the values of that channel, 0 to 255."""
        return self.sums[channel] / self.area


def measure_image(content: bytes) -> DeepRange | None:
    """The range of an image's values, if they have more than 8 bits: it is inspected once those of all are known.

    Raises as `inspect_image` does.
    """
    if not content:
        raise ValueError("the file is empty")
    with opened(BytesIO(content)) as image:
        return deep_range(image)


def inspect_image(content: bytes, side: int, decoding: Decoding) -> ImageFindings:
    """Decode an image. Raises any error of its decoder for one that is broken, hostile or of another format."""
    with opened(BytesIO(content)) as image:
        # Photographs of some telephones hold further pictures besides (MPO), which are not frames.
        kind, mode, (width, height) = image.format or "", image.mode, image.size
        animated = kind != "MPO" and bool(getattr(image, "is_animated", False))
        deep = is_deep(image)
        picture = upright(image, side, decoding)
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
        transparent = image.has_transparency_data and ((deep and "transparency" in image.info) or _lets_through(image))
        extra_bands = 0 in getattr(image, "tag_v2", {}).get(TiffImagePlugin.EXTRASAMPLES, ())
    values = square(picture, side).reshape(3, -1).astype(np.int64)
    sums, squares = values.sum(1).tolist(), (values**2).sum(1).tolist()
    seen = blake2b(f"{picture.size}".encode(), digest_size=16)
    seen.update(picture.tobytes())
    return ImageFindings(
        sha256=sha256(content).digest(), pixels=seen.digest(), format=kind, mode=mode,
        width=width, height=height, turned=turned, animated=animated, deep=deep, transparent=transparent,
        extra_bands=extra_bands,
        area=side * side, sums=tuple(sums), squares=tuple(squares),
    )  # fmt: skip


def _lets_through(image: Image.Image) -> bool:
    """Whether some pixel of an image that has an alpha channel or the like is not opaque."""
    return image.convert("RGBA").getchannel("A").histogram()[255] < image.width * image.height


def misnamed(name: str, findings: ImageFindings) -> bool:
    """Whether a file has an ending, and not one of its format."""
    ending = PurePosixPath(name).suffix.lower()
    return bool(ending) and SAME.get(ending, ending) != findings.ending


def pooled_deviation(findings: Sequence[ImageFindings]) -> float:
    """Standard deviation of the values of several squares together, 0 to 255; of the channel where it is largest."""
    variances = []
    for channel in range(3):
        mean = sum(each.mean(channel) for each in findings) / len(findings)
        square = sum(each.squares[channel] / each.area for each in findings) / len(findings)
        variances.append(square - mean**2)
    return float(max(0.0, *variances) ** 0.5)
