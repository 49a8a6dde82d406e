"""Folders of images as a tree of names, before any image is decoded; and its outline for sentences. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from retort.datasets._listing import escaped

SHOWN_FOLDERS, SHOWN_INNER = 6, 4
"""Folders, and things in each, that an outline names before it only counts."""


class ImageTree:
    """A folder: its own images, and its folders; only such as hold images somewhere below."""

    def __init__(self) -> None:
        self.images: list[str] = []
        """Full names of the images that lie directly in it."""
        self.folders: dict[str, ImageTree] = {}

    @classmethod
    def of(cls, names: Iterable[str]) -> ImageTree:
        """The tree of those names, which have slashes between their folders."""
        root = cls()
        for name in names:
            place = root
            for step in name.split("/")[:-1]:
                place = place.folders.setdefault(step, cls())
            place.images.append(name)
        return root

    def below(self) -> Iterator[str]:
        """All images in it and its folders."""
        yield from self.images
        for folder in self.folders.values():
            yield from folder.below()

    def leaves(self, name: str = "") -> Iterator[tuple[str, ImageTree]]:
        """The folders that hold images directly, at any depth, with the last step of their names."""
        if self.images:
            yield name, self
        for inner, folder in self.folders.items():
            yield from folder.leaves(inner)

    def count(self) -> int:
        return len(self.images) + sum(folder.count() for folder in self.folders.values())

    def unwrapped(self) -> ImageTree:
        """The first folder in it that does not merely wrap another one."""
        place = self
        while len(place.folders) == 1 and not place.images:
            (inner,) = place.folders.values()
            if not inner.folders:
                break
            place = inner
        return place

    def inner(self) -> set[str]:
        """Names of the folders in it, below those that wrap them; empty where it holds images alone, or images, too."""
        place = self.unwrapped()
        return set() if place.images or (len(place.folders) < 2 and place is self) else set(place.folders)


def outline(tree: ImageTree) -> str:
    """A tree in one line: `train/ (8 images: cat/ 4, dog/ 4), test1/ (10 images: 1.jpg, 2.jpg, ...)`."""
    shown = sorted(tree.folders)[: SHOWN_FOLDERS + 1]
    parts = [f"{escaped(name)}/ ({_contents(tree.folders[name])})" for name in shown]
    if tree.images:
        parts.append(f"{_images(len(tree.images))} beside them" if parts else _contents(tree))
    return _first(parts, SHOWN_FOLDERS)


def _contents(tree: ImageTree) -> str:
    inner = [f"{escaped(name)}/ {tree.folders[name].count():,}" for name in sorted(tree.folders)[: SHOWN_INNER + 1]]
    inner += [escaped(name.rpartition("/")[2]) for name in sorted(tree.images)[: SHOWN_INNER + 1]]
    return f"{_images(tree.count())}: {_first(inner, SHOWN_INNER)}"


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count != 1 else ''}"


def _first(parts: Sequence[str], most: int) -> str:
    return ", ".join(parts[:most]) + (", ..." if len(parts) > most else "")
