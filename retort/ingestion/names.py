"""Names of files in a source: as text, and such that they lead to no other place."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import unquote

from retort.dataset import DatasetError

LONGEST_NAME = 1024
DEEPEST = 32
"""Folders in a name at most."""
DRIVE = re.compile(r"[A-Za-z]:")
SURROGATE = re.compile("[\ud800-\udfff]")
PLAIN = re.compile(r"(?:[A-Za-z0-9_-][A-Za-z0-9_. -]*/)*[A-Za-z0-9_-][A-Za-z0-9_. -]*")
"""Names that need no second look."""
SLASHES = str.maketrans(dict.fromkeys("\\\u2044\u2215\u2216\u29f5\u29f8\u29f9", "/"))
"""Slashes and characters that look like one, besides those that Unicode's compatible form turns into one."""


def safe_name(found: str) -> str:
    """The name as one that leads to a place below where it is. Raises DatasetError for one that does not."""
    if PLAIN.fullmatch(found) and len(found) <= LONGEST_NAME and found.count("/") < DEEPEST:
        return found
    for spelt in {found, unquote(found)}:
        plain = unicodedata.normalize("NFKC", spelt).translate(SLASHES)
        if plain.startswith("/") or DRIVE.match(plain):
            raise DatasetError(f"the name {shown(found)} is absolute; wanted names relative to the archive")
        if any(step.strip(" .") == "" and step.strip(" ").startswith("..") for step in plain.split("/")):
            raise DatasetError(f"the name {shown(found)} leads out of the archive")
    if "\0" in found:
        raise DatasetError(f"the name {shown(found)} holds a NUL character")
    steps = [step for step in found.replace("\\", "/").split("/") if step not in ("", ".")]
    name = unicodedata.normalize("NFC", "/".join(steps))
    if len(name) > LONGEST_NAME or len(steps) > DEEPEST:
        raise DatasetError(
            f"the name {shown(found)} has {len(name)} characters in {len(steps)} parts; at most {LONGEST_NAME} in "
            f"{DEEPEST} are read"
        )
    return name if name.isascii() else SURROGATE.sub(_escaped_byte, name)


def _escaped_byte(found: re.Match[str]) -> str:
    """A byte that is not text, which stands in a name as a lone surrogate."""
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def decoded(name: str, encoding: str | None) -> str:
    """A name whose bytes that are not UTF-8 stand as lone surrogates, in that encoding where it has any."""
    if encoding is None or name.isascii() or not SURROGATE.search(name):
        return name
    return name.encode(errors="surrogateescape").decode(encoding, "surrogateescape")


def shown(name: str) -> str:
    """A name as a sentence quotes it."""
    name = name if len(name) <= 80 else f"{name[:77]}..."
    return repr(name.encode(errors="backslashreplace").decode())
