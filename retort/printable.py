"""Text as a terminal may show it: names come from users, and sentences from engines that have read hostile files."""

from __future__ import annotations

from unicodedata import category

STEERING = ("Cc", "Cs", "Zl", "Zp")
"""Categories of Unicode: controls, halves of surrogate pairs, ends of lines and paragraphs."""
DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Marks that reorder what stands beside them. Joiners are no such marks: names are written with them."""


def printable(text: str, keep: str = "") -> str:
    """The text with an escape of JSON in the place of each character that could move a terminal's cursor, change its
    colours, reorder the text or end a line. Characters in `keep` stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(f"\\u{ord(sign):04x}" if _steers(sign) and sign not in keep else sign for sign in text)


def _steers(sign: str) -> bool:
    return category(sign) in STEERING or sign in DIRECTIONS
