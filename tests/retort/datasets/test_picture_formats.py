"""Formats of pictures by their bytes."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from retort.datasets._picture_formats import ENDINGS, HEAD_BYTES, format_of, may_be_picture, unread

MARKS = {
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "AVIF": b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf",
    "JPEG XL": b"\xff\x0a\x10",
    "Photoshop": b"8BPS\0\1",
    "SVG": b"\xef\xbb\xbf <?xml version='1.0'?>\n<!-- a --><svg>",
    "DICOM": bytes(128) + b"DICM",
    "a camera's raw file": b"II*\0\x10\0\0\0CR\2\0",
    "EPS": b"%!PS-Adobe-3.0",
    "ICO": b"\0\0\1\0\1\0" + bytes(20),
}


def encoded(kind: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 99, 199)).save(out, kind)
    return out.getvalue()


@pytest.mark.parametrize("kind", [*ENDINGS, "JPEG2000", "ICO", "QOI", "DDS", "SGI"])
def test_what_pillow_writes_is_known(kind: str) -> None:
    assert format_of(encoded(kind)[:HEAD_BYTES]) == {"JPEG2000": "JPEG 2000"}.get(kind, kind)


def test_formats_that_are_not_read_are_named() -> None:
    for found, head in MARKS.items():
        assert format_of(head) == found
        if found not in ENDINGS:
            assert unread(head).startswith(f"{found} is not read; wanted one of JPEG, PNG, ")


@pytest.mark.parametrize(
    "head",
    [
        *(b"", b"hello", b"BM is the brand of a car; this is a text of some length", b"P5 is a format", b"MM", b"II*"),
        *(b"<html><svg></svg>", b"path,label\n1.png,a\n", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", bytes(600)),
    ],
)
def test_what_is_no_picture_is_none(head: bytes) -> None:
    assert format_of(head) is None
    assert not may_be_picture("dog/README", lambda: head)


def test_a_name_or_a_beginning_is_enough() -> None:
    def unwanted() -> bytes:
        raise AssertionError("its beginning was read")

    for name in ("1.jpg", "a/b.JFIF", "1.jpe", "1.jpg_large", "1.heic", "1.TGA"):
        assert may_be_picture(name, unwanted)
    for name in ("1", "1.txt", "1.jpg!large", "labels.csv"):
        assert may_be_picture(name, lambda: encoded("JPEG"))
