"""What a job needs besides its spec, out of the database: data sets and uploads, fetched to this worker's disk.

Files are kept under the sha256 of their bytes, so that the next job of the same data finds them there, and what was
used longest ago makes room. An attempt holds its files by links of its own: whoever makes room takes nothing from it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from service.blobs.models import CHUNK_BYTES, BlobRow
from service.blobs.repository import BlobGone, read_chunk
from service.datasets.products import PRODUCTS as DATASETS
from service.db import reading
from service.models.products import PRODUCTS as MODELS
from service.uploads import repository as uploads

PARTIAL = ".partial"
WAIT_SECONDS = 0.2
"""How often it is looked whether somebody else has fetched what is wanted."""
READ_BYTES = 1 << 20

Check = Callable[[], None]
"""Raises when the job is not to be prepared any more; asked at each chunk."""

FINDERS: dict[str, Callable[[Session, str, str], BlobRow | None]] = {
    "dataset": DATASETS.find_blob,
    "model": MODELS.find_blob,
    "upload": uploads.find_blob,
}
"""By the prefix of an id: gives the blob of that thing, of that project, if there is one to be used."""


class InputMissing(Exception):
    """A thing that the spec names is not there; the sentence says which."""


@dataclass(frozen=True)
class Cache:
    """A folder of files by digest, which several workers may share."""

    folder: Path
    most_bytes: int
    """How large it may grow; a file that is larger by itself is fetched for one attempt alone."""

    def put(self, project_id: str, stored_id: str, target: Path, check: Check) -> None:
        """Put the file of a stored thing into the folder `target`, under its digest. Raises InputMissing."""
        blob = find(project_id, stored_id)
        target.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # other projects' files, too
        if (blob.size or 0) > self.most_bytes:
            fetch(blob, target / _digest_of(blob), check)
            return
        kept = self.folder / _digest_of(blob)
        while not self._link(kept, target / kept.name, check):
            with self._alone(check) as ours:
                if ours and not kept.exists():
                    self._make_room(blob.size or 0)
                    fetch(blob, kept, check)

    def _link(self, kept: Path, link: Path, check: Check) -> bool:
        """Whether the file is there and whole; then it has been used now."""
        link.unlink(missing_ok=True)
        try:
            os.link(kept, link)
        except FileNotFoundError:
            return False
        if _digest(link, check) != kept.name:
            link.unlink()
            kept.unlink(missing_ok=True)
            return False
        with suppress(FileNotFoundError):  # somebody else needed its room
            os.utime(kept)
        return True

    @contextmanager
    def _alone(self, check: Check) -> Iterator[bool]:
        """Whether it is ours to fetch something; else somebody else is at it, and a moment has passed."""
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                check()
                time.sleep(WAIT_SECONDS)
                yield False
            else:
                yield True
        finally:
            os.close(lock)

    def _make_room(self, size: int) -> None:
        """Remove what was used longest ago until so many bytes can be added, and what nobody finished."""
        for draft in self.folder.glob(f"*{PARTIAL}"):
            draft.unlink(missing_ok=True)
        files = sorted(self.folder.glob("[0-9a-f]" * 64), key=_used)
        held = sum(map(_size, files))
        for file in files:
            if held + size <= self.most_bytes:
                break
            held -= _size(file)
            file.unlink(missing_ok=True)


def find(project_id: str, stored_id: str) -> BlobRow:
    """The blob of a stored thing of that project. Raises InputMissing."""
    finder = FINDERS.get(stored_id.partition("_")[0])
    if finder is not None:
        with reading() as session:
            blob = finder(session, project_id, stored_id)
        if blob is not None:
            return blob
    raise InputMissing(f"{stored_id} is not there any more; it may have been deleted")


def fetch(blob: BlobRow, file: Path, check: Check) -> None:
    """Copy a blob out of the database, whole and with the right digest, or not at all. Raises BlobGone."""
    draft = file.with_name(f"{file.name}{PARTIAL}")
    made = hashlib.sha256()
    try:
        with draft.open("wb") as out:
            for number in range(-(-(blob.size or 0) // CHUNK_BYTES)):
                check()
                content = read_chunk(blob.id, number)
                made.update(content)
                out.write(content)
        if made.hexdigest() != _digest_of(blob):
            raise BlobGone(f"what is stored as {blob.id} is not what was stored")
        draft.rename(file)
    finally:
        draft.unlink(missing_ok=True)


def _digest_of(blob: BlobRow) -> str:
    if blob.sha256 is None:
        raise BlobGone(f"{blob.id} was not committed")
    return blob.sha256


def _digest(file: Path, check: Check) -> str:
    made = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(READ_BYTES):
            made.update(block)
            check()
    return made.hexdigest()


def _used(file: Path) -> float:
    with suppress(FileNotFoundError):
        return file.stat().st_mtime
    return 0.0


def _size(file: Path) -> int:
    with suppress(FileNotFoundError):
        return file.stat().st_size
    return 0
