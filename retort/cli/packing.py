"""A folder as one archive. The same files give the same bytes, so that a broken upload can be resumed."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

from retort.cli.errors import USAGE, CommandError

ProgressCallback = Callable[[int, int], None]
"""Called with (bytes packed, bytes in all)."""


@contextmanager
def pack(folder: Path, on_progress: ProgressCallback) -> Iterator[Path]:
    """A tar of all files in a folder, by name, without owners, times and modes; deleted after the block.

    A link to a file is packed as that file. Constant memory, but for the files' names.
    """
    files = _files(folder)
    with TemporaryDirectory(prefix="retort-") as place:
        archive = Path(place) / f"{folder.resolve().name or 'folder'}.tar"
        try:
            _write(folder, files, archive, on_progress)
        except OSError as error:
            sentence = f"{folder} cannot be packed into {place}: {error.strerror or error}"
            raise CommandError(f"{sentence}; TMPDIR may name another folder", USAGE) from None
        yield archive


def _write(folder: Path, files: Sequence[tuple[str, int]], archive: Path, on_progress: ProgressCallback) -> None:
    done, total = 0, sum(size for _, size in files)
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, size in files:
            entry = tarfile.TarInfo(name)
            entry.size = size
            with (folder / name).open("rb") as content:
                tar.addfile(entry, content)  # raises when the file has become shorter
            tar.getmembers().clear()  # tarfile holds all of them otherwise
            done += size
            on_progress(done, total)


def _files(folder: Path) -> list[tuple[str, int]]:
    """Path below the folder, with slashes, and size of each file, sorted."""
    found = []

    def refuse(error: OSError) -> NoReturn:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}", USAGE)

    for place, folders, names in os.walk(folder, onerror=refuse):
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise CommandError(f"{Path(place) / name} is a link to a folder; wanted the folder itself", USAGE)
        for name in names:
            file = Path(place) / name
            try:
                status = file.stat()
            except OSError as error:
                refuse(error)
            if not stat.S_ISREG(status.st_mode):
                raise CommandError(f"{file} is not a regular file; wanted a folder of files", USAGE)
            found.append((file.relative_to(folder).as_posix(), status.st_size))
    if not found:
        raise CommandError(f"{folder} holds no files; wanted a folder of images", USAGE)
    return sorted(found)
