"""Published files of data sets: fetched once into torch's cache, checked, and unpacked member by member."""

from __future__ import annotations

import shutil
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO
from urllib.error import HTTPError

from retort.dataset import DatasetError
from retort.download import BLOCK, Unreachable, download

LARGEST_FILE = 2 * 2**30
"""Bytes up to which a file is fetched."""
LARGEST_UNPACKED = 8 * 2**30
"""Bytes up to which an archive's members are unpacked."""
TRIES = 2
"""Attempts at one address for a file that is not the published one: it may have been damaged on its way."""
PARTIAL = ".partial-"
"""Prefix of the folders in which files lie until they are whole."""
LEFT_SECONDS = 86_400.0
"""Age at which such a folder is what a run left that was killed."""


@dataclass(frozen=True)
class Download:
    """A published file."""

    urls: tuple[str, ...]
    """Its addresses; the next is tried when one fails."""
    md5: str
    """As its publisher gives it."""
    folder: str = ""
    """Files that an archive unpacks to; empty for a file that is read as it is."""
    members: tuple[str, ...] = ()
    """The archive's members that are wanted, in shell patterns, all below that folder."""

    @property
    def name(self) -> str:
        return PurePosixPath(self.urls[0]).name


def fetch(dataset: str, downloads: Sequence[Download]) -> Path:
    """The folder with a data set's published files: $TORCH_HOME/hub/datasets/<name>.

    A file that was put there by hand is taken if its checksum is right. Raises DatasetError, or Unreachable where the
    network failed.
    """
    import torch

    place = Path(torch.hub.get_dir()) / "datasets" / dataset
    _sweep(place)
    for wanted in downloads:
        try:
            if not wanted.folder:
                _fetch_file(wanted, place)
            elif not (place / wanted.folder).is_dir():
                _unpack(_fetch_file(wanted, place), wanted, place)
        except (OSError, Unreachable) as error:
            kind = Unreachable if isinstance(error, Unreachable) else DatasetError
            raise kind(
                f"{wanted.name} cannot be had from {wanted.urls[-1]}: {error}; where there is no network, put it "
                f"into {place}, or give path, a folder that holds the data set"
            ) from error
    return place


def _sweep(place: Path) -> None:
    for folder in place.glob(f"{PARTIAL}*"):
        with suppress(FileNotFoundError):  # a run beside this one has finished with it
            if time.time() - folder.stat().st_mtime > LEFT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _fetch_file(wanted: Download, place: Path) -> Path:
    """The file, downloaded unless it is there. Raises OSError, Unreachable or DatasetError."""
    from torchvision.datasets.utils import check_integrity

    file = place / wanted.name
    if check_integrity(file, wanted.md5):
        return file
    place.mkdir(parents=True, exist_ok=True)
    failures: list[OSError | Unreachable] = []
    # In a folder of its own until it is whole, so that runs beside this one never see half of it.
    with TemporaryDirectory(dir=place, prefix=PARTIAL) as scratch:
        came = Path(scratch, wanted.name)
        for url in wanted.urls:
            for _ in range(TRIES):
                try:
                    download(url, came, LARGEST_FILE)
                except (HTTPError, Unreachable) as error:
                    failures.append(error)
                    break
                except ValueError as error:
                    raise DatasetError(f"{wanted.name} cannot be had: {error}") from error
                if check_integrity(came, wanted.md5):
                    return came.replace(file)
                failures.append(OSError(f"what came is not the published file, whose md5 is {wanted.md5}"))
    # One that may be had later is worth another attempt, whatever the other addresses answer.
    raise next((error for error in failures if isinstance(error, Unreachable)), failures[-1])


def _unpack(archive: Path, wanted: Download, place: Path) -> None:
    """Leave the wanted members in their folder, all of them or none. Raises DatasetError or OSError."""
    target = place / wanted.folder
    left = LARGEST_UNPACKED
    with TemporaryDirectory(dir=place, prefix=PARTIAL) as scratch:
        try:
            for name, content in _members(archive):
                if not any(fnmatchcase(name, pattern) for pattern in wanted.members):
                    continue
                file = Path(scratch, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                with content, file.open("wb") as out:
                    left -= _copy(content, out, left)
        except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise DatasetError(f"{archive} cannot be unpacked: {error}") from error
        unpacked = Path(scratch, wanted.folder)
        if not unpacked.is_dir():
            raise DatasetError(f"{archive} holds nothing in a folder {wanted.folder!r}")
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # else a run beside this one was quicker
                raise


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """The regular files in an archive by name. Raises DatasetError for a name that leads elsewhere."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    yield _safe(info.filename, archive), opened.open(info)
        return
    with tarfile.open(archive, "r|*") as stream:
        for member in stream:
            content = stream.extractfile(member) if member.isreg() else None
            if content is not None:
                yield _safe(member.name, archive), content


def _safe(name: str, archive: Path) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise DatasetError(f"{archive} holds a member {name!r}, which leads out of the folder that it is unpacked to")
    return str(path)


def _copy(source: IO[bytes], target: IO[bytes], at_most: int) -> int:
    """Copy to the end, counting. Raises DatasetError when there is more than that."""
    copied = 0
    while chunk := source.read(BLOCK):
        copied += len(chunk)
        if copied > at_most:
            raise DatasetError(f"more than {at_most:,} bytes came where a data set's file was wanted")
        target.write(chunk)
    target.flush()
    return copied
