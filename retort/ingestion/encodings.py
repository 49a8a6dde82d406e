"""Names and cells that are in no UTF-8: refused where they matter, with their readings in usual code pages."""

from __future__ import annotations

import re
import unicodedata

from retort.dataset import DatasetError

USUAL = ("cp1252", "cp850", "cp437", "cp1250", "cp1251", "cp866", "gbk", "cp932", "cp949", "cp950", "cp1253", "cp1256")
"""Code pages that a sentence tries, the most usual first."""
READINGS = 5
"""Different readings that a sentence gives at most."""
UNKNOWN = re.compile(r"\\x([0-9a-f]{2})")
"""Bytes that are not text, as names have them; see retort.ingestion.names."""


def has_unknown_bytes(name: str) -> bool:
    """Whether a name has bytes that are not UTF-8."""
    return UNKNOWN.search(name) is not None


def readings(name: str) -> str:
    """A name with unknown bytes as usual code pages read it, for a sentence."""
    content = UNKNOWN.sub(lambda found: chr(0xDC00 + int(found[1], 16)), name).encode("utf-8", "surrogateescape")
    found: dict[str, str] = {}
    for code_page in USUAL:
        try:
            text = content.decode(code_page)
        except UnicodeDecodeError:
            continue
        if all(c.isascii() or unicodedata.category(c)[0] in "LM" for c in text):
            found.setdefault(text, code_page)
    return ", ".join(f"{text!r} in {code_page}" for text, code_page in [*found.items()][:READINGS])


def unknown_bytes(name: str) -> str:
    """A sentence about a name with unknown bytes, to go on with."""
    read = readings(name)
    return f"'{name}' is not in UTF-8 ({read or 'nor in a usual code page'}); `encoding` says what it is in"


def refuse_unknown_bytes(text: str, where: str) -> None:
    """Raise DatasetError for a cell with bytes that are not UTF-8, which stand in it as lone surrogates."""
    if text.isascii() or not any("\udc80" <= c <= "\udcff" for c in text):
        return
    plain = "".join(f"\\x{ord(c) - 0xDC00:02x}" if "\udc80" <= c <= "\udcff" else c for c in text)
    raise DatasetError(f"{where}: {unknown_bytes(plain)}")
