"""Images that somebody made to do harm: each is told as broken, or taken, for little time and memory."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable

import pytest
from PIL import Image, TiffImagePlugin

from retort.dataset import Decoding
from retort.datasets import _decoding
from retort.ingestion.inspection import inspect_image
from tests.retort.ingestion.packing import claiming_png, picture

CLAIM = "its header claims more than 178,956,970 pixels"


def black_png(side: int) -> bytes:
    """A whole image of one bit a pixel, which a thousandth of its bytes hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj()
    rows = bytes((side + 7) // 8 + 1) * 100
    body = b"".join(packer.compress(rows) for _ in range(side // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def inserted(kind: bytes, body: bytes, times: int = 1) -> bytes:
    """A PNG with a chunk of its own behind the header."""
    whole = picture()
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return whole[:33] + chunk * times + whole[33:]


def claiming(kind: str, **how: bool) -> bytes:
    """A small file of that format whose header says 60,000 pixels a side, or as many as the format has words for."""
    content = bytearray(picture(kind=kind, **how))
    match kind:
        case "JPEG":
            place = content.index(b"\xff\xc0") + 5
            content[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
        case "GIF":
            content[6:10] = struct.pack("<HH", 60_000, 60_000)
        case "BMP":
            content[18:26] = struct.pack("<ii", 60_000, 60_000)
        case "WEBP":
            place = content.index(b"VP8L") + 9
            content[place : place + 4] = struct.pack("<I", 16_383 | 16_383 << 14)
        case "TIFF":
            place = content.index(struct.pack("<HHI", TiffImagePlugin.IMAGEWIDTH, 4, 1)) + 8
            content[place : place + 4] = struct.pack("<I", 60_000)
            place = content.index(struct.pack("<HHI", TiffImagePlugin.IMAGELENGTH, 4, 1)) + 8
            content[place : place + 4] = struct.pack("<I", 60_000)
    return bytes(content)


def large_tile() -> bytes:
    """A TIFF of 10 x 10 pixels in one tile of two thousand million."""
    data = zlib.compress(bytes(1000))
    tags = {256: 10, 257: 10, 258: 8, 259: 8, 262: 1, 277: 1, 322: 46_000, 323: 46_000, 324: 8, 325: len(data)}
    listed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + listed + bytes(4)


def many_frames() -> bytes:
    whole = picture(kind="GIF")
    start = whole.index(b"\x2c", 13)
    return whole[:start] + whole[start:-1] * 100_000 + b";"


def both() -> bytes:
    """A JPEG with a zip archive behind it."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("../evil.sh", "rm -r /")
    return picture(kind="JPEG") + archive.getvalue()


def many_fields() -> bytes:
    """EXIF data of thousands of fields, each of which says that it has two gigabytes."""
    fields = b"".join(struct.pack("<HHII", 0x9000 + i % 256, 2, 0x7FFFFFFF, 8) for i in range(5000))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5000) + fields + struct.pack("<I", 8)
    whole = picture(kind="JPEG")
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:]


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "PNG": (lambda: claiming_png(60_000, 60_000), CLAIM),
    "a whole PNG": (lambda: black_png(60_000), CLAIM),
    "a whole PNG of 169 million pixels": (lambda: black_png(13_000), "13000 x 13000 pixels; at most 50,000,000 are"),
    "JPEG": (lambda: claiming("JPEG"), CLAIM),
    "GIF": (lambda: claiming("GIF"), CLAIM),
    "BMP": (lambda: claiming("BMP"), CLAIM),
    "WebP": (lambda: claiming("WEBP", lossless=True), CLAIM),
    "TIFF": (lambda: claiming("TIFF"), CLAIM),
    "a large tile": (large_tile, "its tiles have 46000 x 46000 pixels; at most 50,000,000 are decoded"),
    "a profile of 200 megabytes": (
        lambda: inserted(b"iCCP", b"x\0\0" + zlib.compress(bytes(200 << 20), 1)),
        "Decompressed data too large",
    ),
    "texts of 500 megabytes": (
        lambda: inserted(b"zTXt", b"x\0\0" + zlib.compress(bytes(1000 << 10)), 500),
        "Too much memory used in text chunks",
    ),
    "HTML": (lambda: b"<html>not found</html>", "no image of a kind that is read"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("make", "says"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_image_is_refused_before_it_takes_much(make: Callable[[], bytes], says: str) -> None:
    content = make()
    tracemalloc.start()
    with pytest.raises(ValueError, match=says):
        inspect_image(content, 32, Decoding())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 100 << 20


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize(("make", "animated"), [(many_frames, True), (both, False), (many_fields, False)])
def test_an_odd_image_is_taken_for_its_first_frame(make: Callable[[], bytes], animated: bool) -> None:
    content = make()
    begin = time.monotonic()
    seen = inspect_image(content, 32, Decoding())
    assert (seen.width, seen.height, seen.animated) == (12, 9, animated)
    assert time.monotonic() - begin < 5


def test_a_jpeg_in_scans_is_held_whole_and_so_no_larger_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_decoding, "MOST_PIXELS", 10_000)
    plain, scans = (picture(size=(400, 400), kind="JPEG", progressive=scans) for scans in (False, True))
    assert inspect_image(plain, 16, Decoding()).width == 400
    with pytest.raises(ValueError, match="400 x 400 pixels; at most 10,000 are decoded"):
        inspect_image(scans, 16, Decoding())


def test_what_the_tests_make_are_images_but_for_what_they_claim() -> None:
    with Image.open(io.BytesIO(black_png(800))) as image:
        image.load()
        assert image.size == (800, 800)
