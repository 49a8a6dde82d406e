"""Images of more than 8 bits a channel: their values, and the scale that brings those of a whole set to 8. No torch."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin
from PIL.ImageFile import ImageFile

from retort.dataset import DatasetError
from retort.datasets._listing import short

NATIVE = "L" if sys.byteorder == "little" else "B"
"""The order of bytes in which libtiff gives values; Pillow writes N for it."""
OTHER_BYTE = {"B": "L", "L": "B"}
"""Pillow takes the upper byte of each 16-bit value; with the other order of bytes it takes the lower one."""
LAYOUTS = re.compile(r"(RGB|RGBA|RGBX);16([BLN])")
"""Arrangements of 16-bit values, in Pillow's words, that are read by both bytes."""


@dataclass(frozen=True)
class DeepRange:
    """The values of an image of more than 8 bits a channel."""

    largest: float
    unit: bool
    """Whether they are floating-point numbers from 0 to 1."""
    fractions: bool
    """Whether some are no whole numbers."""


def is_deep(image: ImageFile) -> bool:
    """Whether an image that is opened, and not decoded yet, has more than 8 bits a channel. AVIF's are 8 by then."""
    if image.mode.startswith(("I", "F")):
        return True
    match image.format:
        case "PNG":
            return ";16" in _layout(image)
        case "PPM":
            return _most(image) > 255
        case "TIFF":
            bits = getattr(image, "tag_v2", {}).get(TiffImagePlugin.BITSPERSAMPLE, (1,))
            return bool(max(bits) > 8)
    return False


def measure(image: ImageFile) -> DeepRange:
    """The range of a deep image's values. Raises ValueError for what cannot be scaled, and its decoder's errors."""
    return _range_of(_values(image)[0])


def white_of(ranges: Mapping[str, DeepRange]) -> float | None:
    """The value that becomes 255 in all deep images of a set, by their names; None where there are none.

    It is 1 where all are floating-point numbers up to 1, else the largest number of as many bits, 8 at least, as the
    largest value has. Raises DatasetError where no one scale fits.
    """
    if not ranges:
        return None
    whole = [name for name, found in ranges.items() if not found.unit]
    if not whole:
        return 1.0
    fraction = next((name for name, found in ranges.items() if found.fractions), None)
    if fraction is not None:
        raise DatasetError(
            f"{short(fraction)} holds fractions up to 1 and {short(whole[0])} whole numbers up to "
            f"{ranges[whole[0]].largest:,.0f}: no one scale fits all images; wanted one kind of them"
        )
    bits = int(max(found.largest for found in ranges.values())).bit_length()
    return float(2 ** max(8, bits) - 1)


def decode_deep(image: ImageFile, white: float | None) -> tuple[Image.Image, Image.Image | None]:
    """A deep image in RGB of 8 bits, `white` and what is above it as 255; and its opacity, L of 8 bits, if it has one.

    Raises ValueError for what cannot be scaled, and its decoder's errors.
    """
    if white is None:
        raise ValueError("it has more than 8 bits a channel, and the data set's white was not measured")
    values, opacity = _values(image)
    _range_of(values)
    scaled = np.empty(values.shape, np.uint8)
    for row, out in zip(values, scaled, strict=True):  # in rows, so that no second image of floats stands
        out[:] = np.rint(np.minimum(row, white) * (255 / white))
    alpha = None if opacity is None else Image.fromarray(opacity)
    return Image.fromarray(scaled).convert("RGB"), alpha


def _range_of(values: NDArray[Any]) -> DeepRange:
    least, largest = float(values.min()), float(values.max())
    if not np.isfinite((least, largest)).all():
        raise ValueError("it holds values that are no finite numbers; wanted numbers from 0 up")
    if least < 0:
        raise ValueError(f"its values go from {least:g} to {largest:g}; wanted numbers from 0 up")
    floating = np.issubdtype(values.dtype, np.floating)
    fractions = bool(floating and (values != np.rint(values)).any())
    if fractions and largest > 1:
        raise ValueError(
            f"its values are fractions from {least:g} to {largest:g}; wanted fractions from 0 to 1, or whole numbers"
        )
    return DeepRange(largest, bool(floating and largest <= 1), fractions)


def _values(image: ImageFile) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """(H, W) or (H, W, 3) numbers as the file has them, and (H, W) opacity from 0 to 255, if it has one."""
    clear = image.info.get("transparency")
    opacity = None
    if image.format == "PPM" and image.mode != "F":
        values = _pixmap(image)
    elif image.mode.startswith(("I", "F")):
        if getattr(image, "tag_v2", {}).get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:
            raise ValueError("it is grey of more than 8 bits whose 0 is white; wanted 0 as black")
        values = np.asarray(image)
    elif _layout(image) == "LA;16B":
        _arrange(image, "RGBA")  # four bytes a pixel, too
        pair = np.asarray(image)
        values, opacity = _joined(pair[..., 0], pair[..., 1]), np.ascontiguousarray(pair[..., 2])
    else:
        values = _colours(image)
        if values.shape[2] == 4:
            values, opacity = values[..., :3], (values[..., 3] >> 8).astype(np.uint8)
    if clear is not None and opacity is None:
        same = values == clear
        opacity = np.where(same if same.ndim == 2 else same.all(2), 0, 255).astype(np.uint8)
    return values, opacity


def _colours(image: ImageFile) -> NDArray[np.uint16]:
    """(H, W, 3 or 4): decoded twice, since Pillow gives one byte of each value at a time."""
    layout, file = _layout(image), _file(image)
    match = LAYOUTS.fullmatch(layout)
    if match is None:
        raise ValueError(
            f"its {image.mode} of 16 bits a channel is arranged as {layout}, which is not read; wanted grey or RGB in "
            "one plane, with or without alpha, not premultiplied"
        )
    order = NATIVE if match[2] == "N" else match[2]
    upper = np.asarray(image)
    with Image.open(file, formats=(str(image.format),)) as again:
        _arrange(again, f"{match[1]};16{OTHER_BYTE[order]}")
        return _joined(upper, np.asarray(again))


def _joined(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return np.left_shift(upper, 8, dtype=np.uint16) | lower


def _pixmap(image: ImageFile) -> NDArray[Any]:
    """The numbers of a PPM as they stand: Pillow scales each file by a number of its own."""
    tile, most, file = image.tile[0], _most(image), _file(image)
    shape = (image.height, image.width) if image.mode == "I" else (image.height, image.width, 3)
    count = int(np.prod(shape))
    file.seek(tile.offset)
    content = file.read(2 * count)
    values = np.frombuffer(content[: len(content) // 2 * 2], ">u2")
    if len(values) < count:
        raise ValueError("it is cut short")
    if values.max() > most:
        raise ValueError(f"it holds the value {values.max()}, and its header says that {most} is the largest")
    return values.reshape(shape)


def _most(image: ImageFile) -> int:
    """The largest value that the header of a PPM allows."""
    arguments: Any = image.tile[0].args
    return 65535 if arguments == "I;16B" else arguments[1] if image.mode != "1" and len(arguments) == 2 else 255


def _layout(image: ImageFile) -> str:
    """Arrangement of the values in the file of an image that is not decoded yet, in Pillow's words."""
    arguments: Any = image.tile[0].args
    return arguments if isinstance(arguments, str) else str(arguments[0])


def _arrange(image: ImageFile, layout: str) -> None:
    """Let an image that is not decoded yet be decoded as one of another arrangement."""

    def arranged(arguments: Any) -> Any:
        return layout if isinstance(arguments, str) else (layout, *arguments[1:])

    image.tile = [tile._replace(args=arranged(tile.args)) for tile in image.tile]


def _file(image: ImageFile) -> IO[bytes]:
    assert image.fp is not None, "it is not decoded yet"
    return image.fp
