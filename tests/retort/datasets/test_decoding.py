"""Images of files in RGB of 8 bits: what is transparent, what has more bits, and what cannot be kept."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from retort.dataset import DatasetError, Decoding
from retort.datasets import _decoding
from retort.datasets._decoding import deep_range, opened, upright
from retort.datasets._deep import DeepRange, white_of

GREY, COLOUR, GREY_ALPHA, COLOUR_ALPHA = 0, 2, 4, 6
"""PNG's numbers of its kinds of pixels."""
SIZE = (7, 5)
CLEAR = (2, 1)
"""Row and column of the one transparent pixel."""
GROUND = (1, 2, 3)
VALUES = np.random.default_rng(0).integers(0, 4000, (*SIZE, 3))
"""Of 12 bits."""
VALUES[0, 0] = 4095


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def deep_png(values: NDArray[Any], kind: int, *chunks: bytes) -> bytes:
    """A PNG of 16 bits a channel."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep_tiff(values: NDArray[Any], order: str, **tags: int) -> bytes:
    """An uncompressed TIFF of 16 bits a channel, little-endian (<) or big-endian (>)."""
    bands = values.shape[2]
    data = values.astype(f"{order}u2").tobytes()
    chosen = {"alpha": 2, "planes": 1, "subfile": 0, **tags}
    fields = {
        254: chosen["subfile"], 256: values.shape[1], 257: values.shape[0], 258: None, 259: 1, 262: 2, 273: None,
        277: bands, 278: values.shape[0], 279: len(data), 284: chosen["planes"],
    }  # fmt: skip
    if bands == 4:
        fields[338] = chosen["alpha"]
    end = 8 + 2 + 12 * len(fields) + 4
    places = {258: (3, bands, end), 273: (4, 1, end + 2 * bands)}
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, *(places[tag] if value is None else (4, 1, value)))
        for tag, value in fields.items()
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(fields))
    return head + entries + bytes(4) + struct.pack(f"{order}H", 16) * bands + data


def saved(image: Image.Image, kind: str, **how: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **how)
    return out.getvalue()


def pixmap(values: NDArray[Any], most: int = 4095) -> bytes:
    letter = b"P5" if values.ndim == 2 else b"P6"
    return letter + b"\n# a note\n%d %d\n%d\n" % (SIZE[1], SIZE[0], most) + values.astype(">u2").tobytes()


def decoded(content: bytes, white: float | None = None) -> NDArray[np.uint8]:
    """(H, W, 3)"""
    with opened(io.BytesIO(content)) as image:
        return np.asarray(upright(image, 4, Decoding(background=GROUND, white=white)))


def measured(content: bytes) -> DeepRange | None:
    with opened(io.BytesIO(content)) as image:
        return deep_range(image)


def with_alpha(values: NDArray[Any]) -> NDArray[Any]:
    """The same values with an opaque channel behind them, and one clear pixel."""
    alpha = np.full((*values.shape[:2], 1), 65535)
    alpha[CLEAR] = 0
    return np.concatenate([values, alpha], 2)


ONE = VALUES[..., 0]
DEEP = {
    "PNG grey": deep_png(ONE, GREY),
    "PNG colour": deep_png(VALUES, COLOUR),
    "TIFF grey": saved(Image.fromarray(ONE.astype(np.uint16)), "TIFF"),
    "TIFF grey, packed": saved(Image.fromarray(ONE.astype(np.uint16)), "TIFF", compression="tiff_lzw"),
    "TIFF whole numbers": saved(Image.fromarray(ONE.astype(np.int32)), "TIFF"),
    "TIFF floats": saved(Image.fromarray(ONE.astype(np.float32)), "TIFF"),
    "TIFF colour": deep_tiff(VALUES, "<"),
    "TIFF colour, big-endian": deep_tiff(VALUES, ">"),
    "PGM": pixmap(ONE),
    "PGM of 16 bits": pixmap(ONE, 65535),
    "PPM": pixmap(VALUES),
    "PFM": saved(Image.fromarray(ONE.astype(np.float32)), "PPM"),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_scaled_and_not_cut(name: str) -> None:
    content = DEEP[name]
    assert measured(content) == DeepRange(4095.0, unit=False, fractions=False)
    values = VALUES if "colour" in name or "PPM" in name else np.repeat(ONE[..., None], 3, 2)
    assert np.array_equal(decoded(content, 4095.0), np.rint(values * 255 / 4095))


@pytest.mark.parametrize(
    "content",
    [
        deep_png(with_alpha(VALUES), COLOUR_ALPHA),
        deep_tiff(with_alpha(VALUES), "<"),
        deep_tiff(with_alpha(VALUES), ">"),
        deep_png(VALUES, COLOUR, chunk(b"tRNS", struct.pack(">3H", *map(int, VALUES[CLEAR])))),
        deep_png(with_alpha(VALUES[..., :1]), GREY_ALPHA),
        deep_png(ONE, GREY, chunk(b"tRNS", struct.pack(">H", int(ONE[CLEAR])))),
    ],
)
def test_transparency_beside_more_than_8_bits(content: bytes) -> None:
    found = decoded(content, 4095.0)
    assert tuple(found[CLEAR]) == GROUND
    opaque = np.ones(SIZE, bool)
    opaque[CLEAR] = False
    assert np.array_equal(found[opaque][:, 0], np.rint(ONE * 255 / 4095)[opaque])


def test_deep_images_are_turned_as_their_exif_data_say() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(ONE.astype(np.uint16))
    for kind in ("PNG", "TIFF"):
        found = decoded(saved(picture, kind, exif=exif), 4095.0)
        assert np.array_equal(found[..., 0], np.rint(np.rot90(ONE, -1) * 255 / 4095))


def disc() -> Image.Image:
    """Opacity of a shape, half of it half opaque."""
    shape = np.zeros((20, 20), np.uint8)
    shape[4:16, 4:10], shape[4:16, 10:16] = 255, 128
    return Image.fromarray(shape)


def in_palette(shape: Image.Image) -> Image.Image:
    """Black where the shape is, and black of another number elsewhere."""
    picture = Image.new("P", shape.size, 0)
    picture.putpalette([0, 0, 0, 0, 0, 0])
    picture.paste(1, mask=shape.point(lambda value: 255 if value else 0))
    return picture


def keyed(mode: str) -> Image.Image:
    """Black where the shape is, and 5 elsewhere."""
    grey = disc().point(lambda value: 0 if value else 5)
    return grey.convert(mode)


BLACK = Image.new("L", (20, 20))
RGBA, LA = Image.merge("RGBA", [BLACK] * 3 + [disc()]), Image.merge("LA", [BLACK, disc()])
TRANSPARENT = {
    "RGBA": saved(RGBA, "PNG"),
    "LA": saved(LA, "PNG"),
    "palette, one clear entry": saved(in_palette(disc()), "PNG", transparency=0),
    "palette with opacities": saved(in_palette(disc()), "PNG", transparency=b"\0\xff"),
    "grey, one clear value": saved(keyed("L"), "PNG", transparency=5),
    "RGB, one clear colour": saved(keyed("RGB"), "PNG", transparency=(5, 5, 5)),
    "GIF": saved(in_palette(disc()), "GIF", transparency=0),
    "WebP": saved(RGBA, "WEBP", lossless=True),
    "AVIF": saved(RGBA, "AVIF"),
    "TIFF": saved(RGBA, "TIFF"),
    "TIFF, LA": saved(LA, "TIFF"),
    "TIFF, PA": saved(RGBA.convert("PA"), "TIFF"),
}


@pytest.mark.parametrize("content", TRANSPARENT.values(), ids=TRANSPARENT)
def test_transparent_pixels_are_laid_on_the_background(content: bytes) -> None:
    found = decoded(content).astype(int)
    assert np.abs(found[0, 0] - GROUND).max() <= 1
    assert found[8, 5].max() <= 1, "black where it is opaque"
    on_white = np.asarray(upright(opened(io.BytesIO(content)), 4, Decoding()))
    assert on_white[0, 0].min() >= 254
    assert on_white[8, 5].max() <= 1


def test_half_opaque_pixels_are_mixed() -> None:
    white = np.asarray(upright(opened(io.BytesIO(TRANSPARENT["RGBA"])), 4, Decoding()))
    assert tuple(white[8, 12]) == (127, 127, 127)


def test_opaque_images_of_8_bits_are_as_they_were_before_there_was_a_decoding() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 20, 3), dtype=np.uint8))
    for content in (saved(noise, "JPEG"), saved(noise, "PNG"), saved(noise.convert("P"), "GIF"), saved(noise, "TIFF")):
        before = np.asarray(upright(opened(io.BytesIO(content)), 4, None))
        assert np.array_equal(decoded(content), before)


def test_without_a_decoding_images_are_cut_and_their_transparency_dropped() -> None:
    before = np.asarray(upright(opened(io.BytesIO(DEEP["PNG grey"])), 4, None))
    assert np.array_equal(before[..., 0], np.minimum(ONE, 255))
    assert not np.asarray(upright(opened(io.BytesIO(TRANSPARENT["RGBA"])), 4, None)).any()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            saved(Image.fromarray(np.float32([[-1.5, 4]])), "TIFF"),
            "its values go from -1.5 to 4; wanted numbers from 0",
        ),
        (saved(Image.fromarray(np.float32([[0.5, 37]])), "TIFF"), "its values are fractions from 0.5 to 37; wanted"),
        (saved(Image.fromarray(np.float32([[0, np.nan]])), "TIFF"), "it holds values that are no finite numbers"),
        (saved(Image.fromarray(np.int32([[-3, 4]])), "TIFF"), "its values go from -3 to 4; wanted numbers from 0 up"),
        (
            deep_tiff(with_alpha(VALUES), "<", alpha=1),
            "its RGBA of 16 bits a channel is arranged as RGBa;16L, which is",
        ),
        (deep_tiff(VALUES, "<", planes=2), "its RGB of 16 bits a channel is arranged as R, which is not read"),
        (pixmap(ONE, 4000), "it holds the value 4095, and its header says that 4000 is the largest"),
        (pixmap(ONE)[:-20], "it is cut short"),
        (b"P2 2 1 255\n7 9\n", "a PPM whose pixels are text, or whose header has more than 512 bytes, is not read"),
        (b"P5 1 1 #" + b"x" * 600 + b"\n255\n7", "a PPM whose pixels are text, or whose header has more than 512"),
        (b"P5 #" + b"x" * 600 + b"\n1 1 255\n7", "a PPM whose pixels are text, or whose header has more than 512"),
        (deep_tiff(VALUES, "<", subfile=1), "its first image is a small copy of another, as in a camera's raw file"),
    ],
)
def test_what_cannot_be_kept_is_refused_in_one_sentence(content: bytes, said: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the sentence is what counts
        decoded(content, 4095.0)
    assert str(refused.value).startswith(said)


def test_a_tiff_whose_zero_is_white_is_refused() -> None:
    image = Image.fromarray(ONE.astype(np.uint16))
    content = saved(image, "TIFF", tiffinfo={TiffImagePlugin.PHOTOMETRIC_INTERPRETATION: 0})
    with pytest.raises(ValueError, match="grey of more than 8 bits whose 0 is white"):
        decoded(content, 4095.0)


def test_images_that_take_more_than_their_size_are_refused_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decoding, "MOST_COSTLY_PIXELS", 30)
    monkeypatch.setattr(_decoding, "MOST_SLOW_PIXELS", 30)
    slow = b"P6 7 5 9\n" + bytes(105)
    for content in (DEEP["PNG colour"], TRANSPARENT["AVIF"], slow):
        with pytest.raises(ValueError, match="at most 30 are decoded"):
            decoded(content, 4095.0)
    with pytest.raises(ValueError, match="at most 30 are decoded"):
        measured(DEEP["PNG colour"])
    monkeypatch.setattr(_decoding, "MOST_COSTLY_PIXELS", 40)
    assert decoded(DEEP["PPM"], 4095.0).shape == (*SIZE, 3), "Pillow's slow decoder has no part in it"


@pytest.mark.parametrize(
    ("largest", "white"), [(0, 255), (200, 255), (256, 511), (3400, 4095), (4095, 4095), (4096, 8191), (65535, 65535)]
)
def test_the_white_has_as_many_bits_as_the_largest_value(largest: float, white: float) -> None:
    dark = DeepRange(3.0, unit=False, fractions=False)
    assert white_of({"a": dark, "b": DeepRange(largest, unit=False, fractions=False)}) == white


def test_fractions_have_1_as_white_and_do_not_go_with_whole_numbers() -> None:
    fractions, mask = DeepRange(0.7, unit=True, fractions=True), DeepRange(1.0, unit=True, fractions=False)
    whole = DeepRange(4000.0, unit=False, fractions=False)
    assert white_of({}) is None
    assert white_of({"a": fractions, "b": mask}) == 1
    assert white_of({"a": mask, "b": whole}) == 4095
    with pytest.raises(DatasetError, match="a holds fractions up to 1 and b whole numbers up to 4,000: no one scale"):
        white_of({"a": fractions, "b": whole})
