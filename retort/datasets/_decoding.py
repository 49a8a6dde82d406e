"""Images of files as upright RGB of 8 bits: the one place where ingestion and training decode them. No torch."""

from __future__ import annotations

import warnings
from io import BufferedReader, BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from retort.dataset import Decoding
from retort.datasets._deep import DeepRange, decode_deep, is_deep, measure
from retort.datasets._picture_formats import BINARY_PIXMAP, ENDINGS, HEAD_BYTES, format_of, unread

MOST_PIXELS = 50_000_000
"""Pixels of the largest image that is decoded, a JPEG's after its reduction: a small file can claim any number."""
MOST_COSTLY_PIXELS = MOST_PIXELS // 2
"""The same for images that are held twice while they are decoded."""
MOST_SLOW_PIXELS = MOST_PIXELS // 25
"""The same for images that Pillow decodes in Python."""
SLOW_DECODER = "ppm"
FORMATS = tuple(ENDINGS)
"""Formats that are decoded, whatever a file's name: Pillow has others, which run other programs."""
WARNED_PIXELS = 89_478_485
"""Pillow refuses twice as many by an image's header, before any memory is taken; it is set here, lest its default
change. Of what it warns of, JPEGs that are decoded at an eighth of it are welcome."""

OpenFile = BufferedReader | BytesIO

Image.MAX_IMAGE_PIXELS = WARNED_PIXELS
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# As many images as there are processors are decoded at once.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def opened(file: OpenFile) -> ImageFile:
    """An image by its header, not decoded yet. Raises ValueError for what is none, whatever it is called."""
    _refuse_pixmap_as_text(file)
    try:
        return Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ValueError(f"its header claims more than {2 * WARNED_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        file.seek(0)
        raise ValueError(unread(file.read(HEAD_BYTES))) from None


def _refuse_pixmap_as_text(file: OpenFile) -> None:
    """Raise ValueError for a PPM whose pixels are text or whose header is long: Pillow takes hours for comments."""
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if format_of(head) == "PPM" and BINARY_PIXMAP.match(head) is None:
        raise ValueError(
            f"a PPM whose pixels are text, or whose header has more than {HEAD_BYTES} bytes, is not read; wanted its "
            "binary form"
        )


def upright(image: ImageFile, side: int, decoding: Decoding | None) -> Image.Image:
    """An image decoded, in RGB, turned by its EXIF data; at least of twice that side if it has so many pixels.

    Without a decoding more than 8 bits are cut to 8 and transparency is dropped, as before version 0.3.
    Raises ValueError for a huge one, and whatever its decoder does for a broken one.
    """
    refuse_costly(image)
    # JPEGs are decoded at the nearest larger eighth: half the time, and what makes a square of it does the rest.
    image.draft("RGB", (2 * side, 2 * side))
    refuse_huge(image)
    if decoding is None:
        return ImageOps.exif_transpose(image).convert("RGB")
    _refuse_preview(image)
    picture = _flat(image, decoding)
    picture.getexif()[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
    return ImageOps.exif_transpose(picture)


def deep_range(image: ImageFile) -> DeepRange | None:
    """The range of an opened image's values, if they have more than 8 bits. Raises ValueError as `upright` does."""
    if not is_deep(image):
        return None
    refuse_costly(image)
    refuse_huge(image, MOST_COSTLY_PIXELS)
    return measure(image)


def square(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """(3, side, side) uint8 RGB: the upright image scaled until its shorter side fits, its middle taken."""
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def _flat(image: ImageFile, decoding: Decoding) -> Image.Image:
    """In RGB of 8 bits, not turned yet, on the background where it is transparent."""
    if is_deep(image):
        refuse_huge(image, MOST_COSTLY_PIXELS)
        picture, alpha = decode_deep(image, decoding.white)
    else:
        image.load()
        if not image.has_transparency_data:
            return image.convert("RGB")
        picture = alpha = image.convert("RGBA")
    if alpha is None:
        return picture
    ground = Image.new("RGB", picture.size, decoding.background)
    ground.paste(picture, mask=alpha)
    return ground


def refuse_costly(image: ImageFile) -> None:
    """Raise ValueError for a large image that takes more memory or time than its size: a JPEG in scans is held whole,
    a tile is, too."""
    if image.info.get("progressive"):
        refuse_huge(image)
    if image.format == "AVIF":
        refuse_huge(image, MOST_COSTLY_PIXELS)
    if image.tile and image.tile[0].codec_name == SLOW_DECODER and not is_deep(image):
        refuse_huge(image, MOST_SLOW_PIXELS)
    tags = getattr(image, "tag_v2", {})
    wide, high = (tags.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    if wide * high > MOST_PIXELS:
        raise ValueError(f"its tiles have {wide} x {high} pixels; at most {MOST_PIXELS:,} are decoded")


def _refuse_preview(image: ImageFile) -> None:
    if getattr(image, "tag_v2", {}).get(ExifTags.Base.NewSubfileType, 0) & 1:
        raise ValueError("its first image is a small copy of another, as in a camera's raw file, which is not read")


def refuse_huge(image: ImageFile, most: int | None = None) -> None:
    """Raise ValueError for an image of more than so many pixels, MOST_PIXELS if none are given."""
    most = MOST_PIXELS if most is None else most
    if image.width * image.height > most:
        raise ValueError(f"{image.width} x {image.height} pixels; at most {most:,} are decoded")
