"""A folder as one archive. The same files give the same bytes, so that an upload that broke goes on where it broke."""

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

Told = Callable[[int, int], None]
"""Is told (bytes packed, bytes in all)."""


@contextmanager
def packed(folder: Path, told: Told) -> Iterator[Path]:
    """A tar of all files in a folder, by name, without owners, times and rights; it goes with the block.

    A link to a file is packed as that file. Constant memory, but for the files' names.
    """
    files = _files(folder)
    with TemporaryDirectory(prefix="retort-") as place:
        archive = Path(place) / f"{folder.resolve().name or 'folder'}.tar"
        try:
            _pack(folder, files, archive, told)
        except OSError as error:
            said = f"{folder} cannot be packed into {place}: {error.strerror or error}"
            raise CommandError(f"{said} (TMPDIR names another place)", USAGE) from None
        yield archive


def _pack(folder: Path, files: Sequence[tuple[str, int]], archive: Path, told: Told) -> None:
    done, total = 0, sum(size for _, size in files)
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, size in files:
            entry = tarfile.TarInfo(name)
            entry.size = size
            with (folder / name).open("rb") as content:
                tar.addfile(entry, content)  # which refuses a file that has become shorter
            tar.getmembers().clear()  # it keeps all of them otherwise
            done += size
            told(done, total)


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
                raise CommandError(f"{file} is no regular file; wanted a folder of files", USAGE)
            found.append((file.relative_to(folder).as_posix(), status.st_size))
    if not found:
        raise CommandError(f"{folder} holds no files; wanted a folder of images", USAGE)
    return sorted(found)
