"""Formats of pictures by the first bytes of their files, whatever they are called. No torch, no Pillow."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath

ENDINGS = {
    "JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "GIF": ".gif", "TIFF": ".tif", "PPM": ".ppm",
    "AVIF": ".avif",
}  # fmt: skip
"""The formats that are decoded, by Pillow's names, with the ending of stored files."""
OTHER_ENDINGS = frozenset(
    {
        *(".jpeg", ".jpe", ".jif", ".jfif", ".jpg_large", ".mpo", ".apng", ".png_large", ".dib", ".tiff"),
        *(".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpf", ".jpx", ".heic", ".heif", ".jxl", ".jxr"),
        *(".tga", ".ico", ".cur", ".icns", ".psd", ".svg", ".eps", ".wmf", ".emf", ".dcm", ".pcx", ".xbm", ".xpm"),
        *(".ras", ".sgi", ".dds", ".exr", ".qoi", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
    }
)
"""Further endings of pictures, in lower case: a file that is called so is one, or a broken one."""
PICTURE_ENDINGS = OTHER_ENDINGS | frozenset(ENDINGS.values())
HEAD_BYTES = 512
"""Bytes of a file's beginning by which its format is known."""
BITMAP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
"""Sizes that the second header of a BMP may have: its two first letters begin many a text."""
PIXMAP = re.compile(rb"P[1-7fF][ \t\r\n]+[#\d-]|P7\n")
NUMBER = rb"(?:[ \t\r\n]|#[^\r\n]*[\r\n])+-?[\d.]+"
BINARY_PIXMAP = re.compile(rb"(?:P4(?:%b){2}|P[56fF](?:%b){3})[ \t\r\n]" % (NUMBER, NUMBER))
"""Header of a PPM whose pixels are bytes."""


def _begins(*marks: bytes, at: int = 0) -> Callable[[bytes], bool]:
    return lambda head: head[at:].startswith(marks)


def _is_bitmap(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in BITMAP_HEADERS


def _is_avif(head: bytes) -> bool:
    """A container of the family of MP4 that says so, among its brands."""
    return head[4:8] == b"ftyp" and (b"avif" in _brands(head) or b"avis" in _brands(head))


def _brands(head: bytes) -> list[bytes]:
    names = head[8 : int.from_bytes(head[:4])]
    return [names[place : place + 4] for place in range(0, len(names), 4)]


def _is_svg(head: bytes) -> bool:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith((b"<svg", b"<!doctype svg")) or (text.startswith(b"<?xml") and b"<svg" in text)


TESTS: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _begins(b"\xff\xd8\xff"),
    "PNG": _begins(b"\x89PNG\r\n\x1a\n"),
    "WEBP": lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP",
    "GIF": _begins(b"GIF87a", b"GIF89a"),
    "BMP": _is_bitmap,
    "a camera's raw file": lambda head: (
        head.startswith((b"FUJIFILMCCD-RAW", b"IIU\0", b"IIRO", b"IIRS", b"MMOR"))
        or (head[:2] == b"II" and head[8:10] == b"CR")
        or head[4:12] == b"ftypcrx "
    ),
    "JPEG XR": _begins(b"II\xbc"),
    "TIFF": _begins(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "PPM": lambda head: PIXMAP.match(head) is not None,
    "AVIF": _is_avif,
    "HEIC": lambda head: (
        head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
    ),
    "JPEG 2000": _begins(b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "JPEG XL": _begins(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    "ICO": lambda head: head[:4] == b"\0\0\1\0" and head[4:6] != b"\0\0" and len(head) > 22,
    "Photoshop": _begins(b"8BPS"),
    "EPS": _begins(b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "SVG": _is_svg,
    "DICOM": _begins(b"DICM", at=128),
    "OpenEXR": _begins(b"\x76\x2f\x31\x01"),
    "Radiance HDR": _begins(b"#?RADIANCE", b"#?RGBE"),
    "DDS": _begins(b"DDS "),
    "QOI": _begins(b"qoif"),
    "FITS": _begins(b"SIMPLE  ="),
    "NIfTI": _begins(b"n+1\0", b"ni1\0", at=344),
    "Sun raster": _begins(b"\x59\xa6\x6a\x95"),
    "SGI": lambda head: head[:2] == b"\x01\xda" and head[2:4] in (b"\0\1", b"\0\2", b"\1\1", b"\1\2"),
}
"""A test of each known format on a file's first bytes, the first that holds counts; those outside ENDINGS are not
decoded, and named where they are met."""


def format_of(head: bytes) -> str | None:
    """The format of a file that begins so; None for what is no picture of a known one."""
    return next((name for name, holds in TESTS.items() if holds(head)), None)


def may_be_picture(name: str, head: Callable[[], bytes]) -> bool:
    """Whether a file is a picture by its beginning, which is read only where its name does not end like one's."""
    return PurePosixPath(name).suffix.lower() in PICTURE_ENDINGS or format_of(head()) is not None


def unread(head: bytes) -> str:
    """One sentence about a file that begins so and that Pillow does not take for a picture."""
    found, read = format_of(head), ", ".join(ENDINGS)
    if found is None:
        return f"no image of a kind that is read: {read}"
    if found not in ENDINGS:
        return f"{found} is not read; wanted one of {read}"
    return f"{found} of bits, channels or a compression that are not read, or a broken file"
