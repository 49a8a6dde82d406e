"""Names of classes: which are plain text, and which are the same name in two spellings. No torch."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from retort.dataset import DatasetError
from retort.datasets._listing import escaped

JOINERS = ("\u200c", "\u200d")
"""The zero-width characters that spelling wants, in Persian, Hindi, Sinhala, and emoji."""


def loose(name: str) -> str:
    """A key that spellings of one name share: case, Unicode's forms, spaces, underscores, and what cannot be seen."""
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(c if c.isalnum() or unicodedata.category(c)[0] in "MS" else " " if _parts(c) else c for c in plain)
    return " ".join("".join(c for c in seen if unicodedata.category(c)[0] != "C").split())


def _parts(character: str) -> bool:
    return character in "_-" or character.isspace()


def odd_characters(name: str) -> list[str]:
    """Characters that cannot stand in a class name, by their names in Unicode: such as control or turn the text."""
    found = []
    for before, character in zip(f" {name}", name, strict=False):
        joins = character in JOINERS and not before.isascii()
        if not (character.isprintable() or unicodedata.category(character) == "Zs" or joins):
            found.append(f"U+{ord(character):04X} {unicodedata.name(character, '')}".strip())
    return found


class ClassFinder:
    """Finds the classes that a request names, as written or in another spelling. Raises DatasetError for names that
    stand for one another."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._exact = set(classes)
        self._loose: dict[str, str] = {}
        for name in classes:
            self._loose.setdefault(loose(name), name)

    def find(self, found: str) -> str | None:
        return found if found in self._exact else self._loose.get(loose(found))

    def among(self, folders: Iterable[str], image: str) -> str | None:
        """The class that one of an image's folders is."""
        found = {name for folder in folders if (name := self.find(folder)) is not None}
        if len(found) > 1:
            names = ", ".join(escaped(name) for name in sorted(found))
            raise DatasetError(f"{escaped(image)} lies in folders of several `classes`: {names}")
        return found.pop() if found else None

    def beginning_of(self, file: str) -> str | None:
        """The class with which a file's name begins, before anything but a letter; the longest where several do."""
        stem = file.rpartition(".")[0]
        for end in range(len(stem), 0, -1):
            is_end = end == len(stem) or not stem[end].isalpha()
            if is_end and (name := self.find(stem[:end])) is not None:
                return name
        return None


def merged_spellings(names: Iterable[str]) -> list[list[str]]:
    """Groups of names that are one name in several spellings."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(loose(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]
