"""An ONNX file's bytes, counted before they are parsed: a few of them may become many in memory."""

from __future__ import annotations

from typing import Any

from retort.engine.interrupt import Impossible

MOST_FIELDS = 1_500_000
"""Fields of all messages: each message takes some 100 bytes where it was 2 in the file. A network of 10,000 nodes has
150,000."""
MOST_PACKED = 128 << 20
"""Bytes of packed whole numbers, which take up to eight times as many; weights are raw bytes."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Kinds of fields (https://protobuf.dev/programming-guides/encoding)."""


def check_wire(content: bytes, descriptor: Any) -> None:
    """Raise Impossible for what is no message of that type, or is larger in memory than it looks."""
    fields = packed = 0
    waiting = [(0, len(content), descriptor)]
    while waiting:
        place, end, message = waiting.pop()
        while place < end:
            fields += 1
            if fields > MOST_FIELDS:
                raise Impossible(f"the ONNX file has more than {MOST_FIELDS:,} fields; no more are read")
            tag, place = _varint(content, place, end)
            if tag & 7 == BYTES:
                length, place = _varint(content, place, end)
                field = message.fields_by_number.get(tag >> 3)
                if length > end - place:
                    raise _not_onnx()
                if field is not None and field.message_type is not None:
                    waiting.append((place, place + length, field.message_type))
                elif field is not None and field.type not in (field.TYPE_BYTES, field.TYPE_STRING):
                    packed += length if field.type not in (field.TYPE_FLOAT, field.TYPE_DOUBLE) else 0
                place += length
            else:
                place = _behind_number(content, place, end, tag & 7)
    if packed > MOST_PACKED:
        raise Impossible(
            f"the ONNX file has {packed:,} bytes of numbers that are packed one by one; at most {MOST_PACKED:,} are "
            "read: write weights as raw data"
        )


def _behind_number(content: bytes, place: int, end: int, kind: int) -> int:
    """Where the field behind a number begins."""
    if kind == VARINT:
        return _varint(content, place, end)[1]
    place += {FIXED64: 8, FIXED32: 4}.get(kind, end)
    if place > end:
        raise _not_onnx()
    return place


def _varint(content: bytes, place: int, end: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while place < end and shift < 70:
        byte = content[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
    raise _not_onnx()


def _not_onnx() -> Impossible:
    return Impossible("the file is not ONNX: it cannot be parsed")
