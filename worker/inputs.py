"""Inputs of a job besides its spec: data sets, models and uploads, fetched from the database to this worker's disk.

Files are cached under the sha256 of their bytes, so that the next job of the same data finds them there; the least
recently used ones are evicted. An attempt holds its files by links of its own, which no eviction takes from it.
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
"""Seconds between two looks for a file that another worker fetches."""
READ_BYTES = 1 << 20

Check = Callable[[], None]
"""Raises when the job is not to be prepared any more; called at each chunk."""

FINDERS: dict[str, Callable[[Session, str, str], BlobRow | None]] = {
    "dataset": DATASETS.find_blob,
    "model": MODELS.find_blob,
    "upload": uploads.find_blob,
}
"""By the prefix of an id: finds the blob of that id in that project, None when there is none to be used."""


class InputMissing(Exception):
    """An input that the spec names is missing; the sentence names it."""


@dataclass(frozen=True)
class InputCache:
    """A folder of files by digest, which several workers may share."""

    folder: Path
    max_bytes: int
    """Size up to which it may grow; a larger file is fetched for one attempt alone."""

    def put(self, project_id: str, stored_id: str, target: Path, check: Check) -> None:
        """Put the file of an input into the folder `target`, under its digest. Raises InputMissing."""
        blob = find(project_id, stored_id)
        target.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it has other projects' files, too
        if (blob.size or 0) > self.max_bytes:
            fetch(blob, target / _digest_of(blob), check)
            return
        cached = self.folder / _digest_of(blob)
        while not self._link(cached, target / cached.name, check):
            with self._try_lock(check) as locked:
                if locked and not cached.exists():
                    self._evict(blob.size or 0)
                    fetch(blob, cached, check)

    def _link(self, cached: Path, link: Path, check: Check) -> bool:
        """Link the file if it is there and whole, and note its use; returns whether it was."""
        link.unlink(missing_ok=True)
        try:
            os.link(cached, link)
        except FileNotFoundError:
            return False
        if _digest(link, check) != cached.name:
            link.unlink()
            cached.unlink(missing_ok=True)
            return False
        with suppress(FileNotFoundError):  # it was evicted meanwhile
            os.utime(cached)
        return True

    @contextmanager
    def _try_lock(self, check: Check) -> Iterator[bool]:
        """Lock the folder for a fetch; yields False, after a pause, while another worker holds it."""
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

    def _evict(self, size: int) -> None:
        """Remove the least recently used files until so many bytes fit, and half fetched ones."""
        for draft in self.folder.glob(f"*{PARTIAL}"):
            draft.unlink(missing_ok=True)
        files = sorted(self.folder.glob("[0-9a-f]" * 64), key=_used)
        held = sum(map(_size, files))
        for file in files:
            if held + size <= self.max_bytes:
                break
            held -= _size(file)
            file.unlink(missing_ok=True)


def find(project_id: str, stored_id: str) -> BlobRow:
    """The blob of an input in that project. Raises InputMissing."""
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
            raise BlobGone(f"the bytes of {blob.id} do not have the digest that was stored with them")
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
