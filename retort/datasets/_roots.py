"""The folders under which a recipe may name local files, and what is read from them. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from retort.dataset import DatasetError

LARGEST_LIST = 50_000_000
"""Bytes of the largest text file that is read."""
PATH_PATTERN = r"^[^\x00]+$"
LONGEST_PATH = 4096


class Roots:
    """The folders that a server allows, with symbolic links followed."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self._real = tuple(os.path.realpath(root) for root in roots)
        self._known: dict[str, bool] = {}

    def folder(self, path: str) -> Path:
        """The folder that a recipe names, with symbolic links followed. Raises DatasetError if it is not allowed."""
        if not self._real:
            raise DatasetError(
                f"the folder {path!r} is not allowed: this server allows no local folders; "
                "its operator names them in RETORT_DATA_ROOTS"
            )
        folder = os.path.realpath(path)
        if not self._cover(folder):
            named = ", ".join(self._real)
            raise DatasetError(f"the folder {path!r} lies outside the folders that this server allows: {named}")
        return Path(folder)

    def are_here(self, folder: Path) -> bool:
        """True if a folder's root is this machine's; else its contents are unknown here."""
        return any(os.path.isdir(root) and folder.is_relative_to(root) for root in self._real)

    def hold(self, file: str) -> bool:
        """True if a path leads to a regular file in an allowed folder."""
        if not os.path.isfile(file):
            return False
        if os.path.islink(file):
            return self._cover(os.path.realpath(file))
        folder = os.path.dirname(file)
        if folder not in self._known:  # following every file's links one by one would take longer than listing them
            self._known[folder] = self._cover(os.path.realpath(folder))
        return self._known[folder]

    def _cover(self, real: str) -> bool:
        return any(Path(real).is_relative_to(root) for root in self._real)


class Files:
    """A folder and what may be read from it; names are relative to it."""

    def __init__(self, folder: Path, roots: Roots) -> None:
        self.folder = folder
        self._roots = roots

    def hold(self, name: str) -> bool:
        """True if that is a regular file which does not lead out of the allowed folders."""
        return self._roots.hold(os.path.join(self.folder, name))

    def file(self, name: str) -> Path:
        """Path of a file. Raises DatasetError if it is missing or leads out of the allowed folders."""
        if not self.hold(name):
            raise DatasetError(f"{str(self.folder)!r} holds no file {name!r} that may be read")
        return self.folder / name

    def lines(self, name: str) -> list[str]:
        """The lines of a text file that are not blank, stripped. Raises DatasetError."""
        file = self.file(name)
        size = file.stat().st_size
        if size > LARGEST_LIST:
            raise DatasetError(f"the list {name!r} has {size:,} bytes; at most {LARGEST_LIST:,} are read")
        try:
            text = file.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise DatasetError(f"the list {name!r} is not a text: {error}") from error
        return [line.strip() for line in text.splitlines() if line.strip()]

    def folders(self, name: str = "") -> list[str]:
        """Names of the folders in a folder, sorted, without hidden ones. Raises DatasetError if there is none."""
        place = self.folder / name
        if not place.is_dir():
            raise DatasetError(f"{str(self.folder)!r} holds no folder {name!r}")
        return sorted(child.name for child in place.iterdir() if child.is_dir() and not child.name.startswith("."))


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn the system's error for a folder into a DatasetError."""
    try:
        yield
    except OSError as error:
        raise DatasetError(f"the folder {path!r} cannot be read: {error}") from error


def fetched(roots: Sequence[Path], stored_id: str) -> Path | None:
    """The file of something stored that a worker fetched for the job: `<root>/<id>/<sha256 of its bytes>`."""
    return next((file for root in roots for file in (Path(root) / stored_id).glob("[0-9a-f]" * 64)), None)
