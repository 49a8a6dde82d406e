"""The images that the cells of a list mean, in whatever way paths are written there."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Callable, Sequence
from urllib.parse import unquote, urlsplit

from retort.dataset import DatasetError
from retort.datasets._picture_formats import PICTURE_ENDINGS
from retort.ingestion.names import SLASHES, shown

FEW = 64
"""Images of one stem that are compared with a path one by one."""
SAME_ENDINGS = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tiff": ".tif"}
"""Endings that mean the same."""


class ImageIndex:
    """All images of a source, found by paths as lists write them: relative to the list's folder, to the top or to any
    other folder, absolute on the author's machine, with backslashes, without endings, in other cases. A path is only
    compared with names here, never followed."""

    def __init__(self, images: Sequence[str]) -> None:
        self._names = frozenset(images)
        self._by_stem: dict[str, str | list[str]] = {}
        """The image of each stem, or several."""
        for name in images:
            stem = _stem(name.rpartition("/")[2])[0]
            match self._by_stem.setdefault(stem, name):
                case str(other) if other is not name:
                    self._by_stem[stem] = [other, name]
                case list(others):
                    others.append(name)
        self._by_folder: dict[str, dict[str, list[str]]] = {}
        """Of stems that very many images share, the images by the folders that they lie in."""

    def find(self, cell: str, base: str = "", preferred: Callable[[str], bool] | None = None) -> str | None:
        """The image that a cell means in a list of the folder `base`; of several alike the one that is preferred, or
        below `base`. Raises DatasetError where several are left."""
        for spelt in dict.fromkeys((cell, unquote(cell))):
            plain = _plain(spelt)
            for name in dict.fromkeys((posixpath.normpath(posixpath.join(base, plain)), posixpath.normpath(plain))):
                if name in self._names:
                    return name
            alike = self._alike(plain)
            if alike and (best := self._best(cell, plain, alike, base, preferred)) is not None:
                return best
        return None

    def knows(self, cell: object, base: str = "") -> bool:
        """Whether a cell means an image."""
        try:
            return isinstance(cell, str | int) and self.find(str(cell), base) is not None
        except DatasetError:
            return True

    def _alike(self, plain: str) -> Sequence[str]:
        """Images of that stem, and of that ending where one is given."""
        stem, ending = _stem(plain.rpartition("/")[2])
        found = [name for name in self._of_stem(stem, plain) if not ending or _stem(name)[1] == ending]
        return found if found or not ending else self._of_stem(_folded(plain.rpartition("/")[2]), plain)

    def _of_stem(self, stem: str, plain: str) -> Sequence[str]:
        """Images of that stem; of very many those that lie in a folder of that path's name, or in none."""
        found = self._by_stem.get(stem, [])
        if isinstance(found, str):
            return [found]
        if len(found) <= FEW:
            return found
        if stem not in self._by_folder:
            by_folder = self._by_folder.setdefault(stem, {})
            for name in found:
                by_folder.setdefault(_last_folder(name), []).append(name)
        by_folder, folder = self._by_folder[stem], _last_folder(plain)
        return [*by_folder.get(folder, found[:FEW] if not folder else ()), *by_folder.get("", ())][:FEW]

    def _best(
        self, cell: str, plain: str, found: Sequence[str], base: str, preferred: Callable[[str], bool] | None
    ) -> str | None:
        """The one whose folders are most like those of the cell; None where none is."""
        wanted = _folders(plain)
        shared = {name: _shared(wanted, _folders(name)) for name in found}
        whole = [name for name in found if shared[name] == min(len(wanted), len(_folders(name)))]
        if not whole:
            return None
        most = max(shared[name] for name in whole)
        left = [name for name in whole if shared[name] == most]
        last = plain.rpartition("/")[2]
        for narrower in (
            [name for name in left if preferred is not None and preferred(name)],
            [name for name in left if base and name.startswith(f"{base}/")],
            [name for name in left if name.rpartition("/")[2] == last],
        ):
            if len(left) > 1 and narrower:
                left = narrower
        if len(left) > 1:
            raise DatasetError(
                f"{shown(cell)} may be {shown(left[0])} or {shown(left[1])}; wanted paths that tell them apart"
            )
        return left[0]


def _plain(cell: str) -> str:
    """A path with slashes, in Unicode's composed form, without its drive, its host or dots at its beginning."""
    text = unicodedata.normalize("NFC", cell.strip().strip("\"'"))
    if "://" in text[:10]:
        text = urlsplit(text).path
    steps = [step for step in text.translate(SLASHES).split("/") if step not in ("", ".")]
    return "/".join(steps)


def _folders(path: str) -> list[str]:
    return [step.casefold() for step in path.split("/")[:-1] if step != ".."]


def _last_folder(path: str) -> str:
    return (_folders(path) or [""])[-1]


def _shared(first: Sequence[str], second: Sequence[str]) -> int:
    """Steps at the end that both have."""
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def _stem(file: str) -> tuple[str, str]:
    """A file's name without the ending of an image, and that ending, in one case."""
    stem, ending = posixpath.splitext(_folded(file))
    if ending not in PICTURE_ENDINGS:
        return _folded(file), ""
    return stem, SAME_ENDINGS.get(ending, ending)


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text.casefold())
