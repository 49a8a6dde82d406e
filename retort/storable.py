"""Values of JSON that can be stored as they came, in any database and by any engine: a parser takes more than those."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isfinite
from typing import Any

from pydantic_core import PydanticCustomError

LARGEST_INTEGER = 2**63
LONGEST_NAME = 200
"""Characters of a field's name; an answer repeats the names on the way to each wrong field."""
DEEPEST = 32
"""Objects and lists within each other; no recipe has a third of them."""
LONGEST_QUOTE = 60
"""Characters of a text that a reason repeats."""

Path = tuple[str | int, ...]


def unstorable(root: Any) -> Iterator[tuple[Path, str]]:
    """The way to each value that cannot be stored, and the reason. Walks without recursion, not into such a value."""
    left: list[tuple[Path, Any]] = [((), root)]
    while left:
        path, value = left.pop()
        if reason := _reason(value, len(path)):
            yield path, reason
        elif isinstance(value, dict | list):
            entries: Iterable[tuple[str | int, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
            left += [((*path, step), inner) for step, inner in entries]


def most_values(content: bytes) -> int:
    """Values in JSON at most, before any is made: each but the first stands behind a comma or in a bracket."""
    return sum(content.count(mark) for mark in (b"[", b"{", b","))


def check_storable(value: Any) -> Any:
    """Validator of pydantic: the value, unless something in it cannot be stored."""
    for path, reason in unstorable(value):
        where = f"{'/'.join(map(str, path))}: " if path else ""
        raise PydanticCustomError("unstorable", "{where}{reason}", {"where": where, "reason": reason})
    return value


def _reason(value: Any, depth: int) -> str | None:
    if isinstance(value, dict | list) and depth == DEEPEST:
        return f"it lies within {DEEPEST} objects and lists; no more may lie within each other"
    if isinstance(value, dict) and (longest := max(map(len, value), default=0)) > LONGEST_NAME:
        return f"the name of a field has {longest:,} characters; at most {LONGEST_NAME} are read"
    if isinstance(value, dict) and (found := next(filter(None, map(_reason_of_text, value)), None)):
        return f"the name of a field holds {found}; none may"
    if isinstance(value, str) and (found := _reason_of_text(value)):
        return f"{value[:LONGEST_QUOTE]!r} holds {found}; no text may"
    if isinstance(value, int) and not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
        return "the whole number does not fit 64 bits; wanted a smaller one"
    if isinstance(value, float) and not isfinite(value):
        return "the number does not fit a 64-bit float; wanted a smaller one"
    return None


def _reason_of_text(text: str) -> str | None:
    if "\0" in text:
        return "a NUL character"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "half of a surrogate pair"
    return None
