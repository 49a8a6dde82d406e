"""Ids: a prefix that names the kind, then 26 characters that sort by time and cannot be guessed."""

from __future__ import annotations

import secrets

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: its order is that of ASCII, and no two letters look alike."""
TIME_CHARACTERS, RANDOM_CHARACTERS = 10, 16


def new_id(prefix: str, at: float) -> str:
    """`<prefix>_` and a ULID of that time, in epoch seconds: 50 bits of milliseconds, 80 of chance."""
    return f"{prefix}_{_spell(int(at * 1000), TIME_CHARACTERS)}{random_text(RANDOM_CHARACTERS)}"


def random_text(characters: int) -> str:
    """So many characters of 5 bits each from the system's secrets."""
    return _spell(secrets.randbits(5 * characters), characters)


def _spell(number: int, characters: int) -> str:
    return "".join(ALPHABET[(number >> 5 * i) & 31] for i in reversed(range(characters)))
