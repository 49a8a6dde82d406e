"""Where an attempt works: its directory, the checkpoints of this and earlier attempts, and weights of earlier jobs."""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, TypeAdapter
from sqlalchemy import select

from retort.kinds import KINDS
from retort.user_model import RECORD
from service.artifacts.repository import find_artifact
from service.blobs.models import CHUNK_BYTES, BlobRow
from service.blobs.repository import read_chunk
from service.checkpoints.repository import of_job
from service.claims.repository import Claim
from service.db import reading
from service.jobs.models import TERMINAL, JobRow
from service.models.models import record_of
from service.models.products import PRODUCTS as MODELS
from worker.inputs import Cache, Check, InputMissing


class WeightsMissing(Exception):
    """A network that the recipe starts from is not there; the sentence says which."""


class Shipped(BaseModel):
    """A file that the engine left."""

    name: str
    network: str | None
    media_type: str
    file: str


SHIPPED = TypeAdapter(list[Shipped])
LONGEST_LIST = 10_000_000


@dataclass(frozen=True)
class Desk:
    """The folders of one attempt."""

    job: Path
    """All of the job's; it goes when the job ends."""
    directory: Path
    """This attempt's own."""

    @classmethod
    def of(cls, storage: Path, claim: Claim) -> Desk:
        job = jobs_folder(storage) / claim.job_id
        return cls(job, job / f"attempt-{claim.fence}")

    @property
    def checkpoints(self) -> Path:
        return self.job / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.directory / "weights"

    @property
    def inputs(self) -> Path:
        """What was fetched for the job: `<id>/<sha256>` for each stored thing that its spec names."""
        return self.directory / "inputs"

    def set_up(self, claim: Claim, cache: Cache, check: Check) -> None:
        """Make the folders; fetch what the spec names, and checkpoints that another worker left.

        Raises WeightsMissing and InputMissing, BlobGone when something was dropped meanwhile, and what `check` does,
        which is asked while much is fetched.
        """
        for folder in (self.checkpoints, self.weights):
            folder.mkdir(parents=True, exist_ok=True)
        for job_id, network in KINDS[claim.kind].weights(claim.spec):
            for suffix in ("safetensors", "json"):
                target = self.weights / job_id / f"{network}.{suffix}"
                target.parent.mkdir(exist_ok=True)
                with target.open("wb") as file:
                    _fetch(claim.project_id, job_id, target.name, file)
        for stored_id in KINDS[claim.kind].inputs(claim.spec):
            if stored_id.startswith("model_"):
                self._fetch_model(claim.project_id, stored_id, cache, check)
            else:
                cache.put(claim.project_id, stored_id, self.inputs / stored_id, check)
        self._fetch_checkpoints(claim.job_id)

    def _fetch_model(self, project_id: str, model_id: str, cache: Cache, check: Check) -> None:
        """A network that a user brought, and the record that says what it is."""
        folder = self.weights / model_id
        cache.put(project_id, model_id, folder, check)
        with reading() as session:
            row = MODELS.find(session, project_id, model_id)
        if row is None:
            raise InputMissing(f"{model_id} is not there any more; it may have been deleted")
        record = record_of(row[0])
        (folder / row[0].sha256).rename(folder / record.file)
        (folder / RECORD).write_text(record.model_dump_json())

    def _fetch_checkpoints(self, job_id: str) -> None:
        with reading() as session:
            stored = of_job(session, job_id)
        for checkpoint, blob in stored:
            target = self.checkpoints / checkpoint.file
            if not target.exists():
                # An engine reads files by their whole name, so that one half fetched is none.
                draft = self.directory / "checkpoint.part"
                with draft.open("wb") as file:
                    _copy(blob, file)
                draft.rename(target)

    def fetched(self) -> list[Path]:
        """The folder of inputs, if there are any: to the engine it is one more root of data."""
        return [self.inputs] if self.inputs.is_dir() else []

    def shipped(self) -> Iterator[tuple[Shipped, Path]]:
        """The files that the engine left. Raises OSError or ValueError when they are not as it says."""
        with open_left(self.directory / "artifacts.json") as listed:
            content = listed.read(LONGEST_LIST + 1)
        if len(content) > LONGEST_LIST:
            raise ValueError(f"its list of files is longer than {LONGEST_LIST:,} bytes")
        for shipped in SHIPPED.validate_json(content):
            file = (self.directory / shipped.file).resolve()
            if not file.is_relative_to(self.directory.resolve()):
                raise ValueError(f"the engine names the file {shipped.file!r}, which lies outside its directory")
            yield shipped, file

    def clear(self, *, ended: bool) -> None:
        """Remove this attempt's folder, and all of the job's when it has ended."""
        shutil.rmtree(self.job if ended else self.directory, ignore_errors=True)


def open_left(path: Path) -> BinaryIO:
    """Open a file that an engine left, which may have been led astray by what it read.

    Raises OSError when it is a link, and ValueError when it is no file: a pipe would hold up who opens it.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise ValueError(f"{path.name} is no regular file")
    return os.fdopen(opened, "rb")


def jobs_folder(storage: Path) -> Path:
    """Where every job has a folder while it lives."""
    return storage / "jobs"


def sweep_folders(storage: Path, grace_seconds: float) -> int:
    """Remove folders of jobs that ended or are gone, once nothing was put into them for that long; gives how many."""
    count = 0
    for folder in jobs_folder(storage).glob("job_*"):
        if time.time() - folder.stat().st_mtime >= grace_seconds and _is_over(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count


def _is_over(job_id: str) -> bool:
    with reading() as session:
        state = session.scalar(select(JobRow.state).where(JobRow.id == job_id))
    return state is None or state in TERMINAL


def _fetch(project_id: str, job_id: str, name: str, file: BinaryIO) -> None:
    with reading() as session:
        found = find_artifact(session, project_id, job_id, name)
    if found is None:
        raise WeightsMissing(f"job {job_id} has no file {name}; it may have been deleted")
    _copy(found[1], file)


def _copy(blob: BlobRow, file: BinaryIO) -> None:
    for number in range(-(-(blob.size or 0) // CHUNK_BYTES)):
        file.write(read_chunk(blob.id, number))
