"""The folders of an attempt: its own, the checkpoints of all attempts, and the weights and inputs fetched for it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

from pydantic import AfterValidator, BaseModel, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError
from sqlalchemy import select

from retort.event import Text
from retort.kinds import KINDS
from retort.recipe import NETWORK_NAME, NetworkName
from retort.spec import wrong_at
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
from worker.inputs import Check, InputCache, InputMissing


class WeightsMissing(Exception):
    """A network that the recipe starts from is missing; the sentence names it."""


def _is_inside(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/"):
        found = {"file": repr(path)}
        raise PydanticCustomError(
            "outside", "the engine names the file {file}, which lies outside its directory", found
        )
    return path


class ShippedFile(BaseModel):
    """An artifact as the engine lists it."""

    file: Annotated[Text, AfterValidator(_is_inside)]
    """Path of its bytes in the attempt's folder."""
    name: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]{0,199}$")]
    network: NetworkName | None
    media_type: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]{0,63}/[a-z0-9][a-z0-9.+-]{0,63}$")]


MOST_FILES = 2000
"""Artifacts of one job: those of the most networks in all formats are a third of that."""
SHIPPED_FILES = TypeAdapter(Annotated[list[ShippedFile], Field(max_length=MOST_FILES)])
LONGEST_LIST = 10_000_000
ID = re.compile(r"[a-z]+_[0-9a-z]+")


@dataclass(frozen=True)
class Workspace:
    """The folders of one attempt."""

    job: Path
    """All of the job's; removed when the job ends."""
    directory: Path
    """This attempt's own."""

    @classmethod
    def of(cls, storage: Path, claim: Claim) -> Workspace:
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
        """Files fetched for the job: `<id>/<sha256>` for each upload, data set and model that its spec names."""
        return self.directory / "inputs"

    def prepare(self, claim: Claim, cache: InputCache, check: Check) -> None:
        """Make the folders; fetch what the spec names, and checkpoints that another worker left.

        Calls `check` between chunks and raises what it raises; else WeightsMissing, InputMissing, or BlobGone when a
        blob was deleted meanwhile.
        """
        for folder in (self.checkpoints, self.weights):
            folder.mkdir(parents=True, exist_ok=True)
        for job_id, network in KINDS[claim.kind].weights(claim.spec):
            if not (ID.fullmatch(job_id) and NETWORK_NAME.fullmatch(network)):
                raise WeightsMissing(f"job {job_id!r} and network {network!r} are no names; none is fetched")
            for suffix in ("safetensors", "json"):
                target = self.weights / job_id / f"{network}.{suffix}"
                target.parent.mkdir(exist_ok=True)
                with target.open("wb") as file:
                    _fetch(claim.project_id, job_id, target.name, file)
        for stored_id in KINDS[claim.kind].inputs(claim.spec):
            if not ID.fullmatch(stored_id):
                raise InputMissing(f"{stored_id!r} is no id; nothing is fetched")
            if stored_id.startswith("model_"):
                self._fetch_model(claim.project_id, stored_id, cache, check)
            else:
                cache.put(claim.project_id, stored_id, self.inputs / stored_id, check)
        self._fetch_checkpoints(claim.job_id)

    def _fetch_model(self, project_id: str, model_id: str, cache: InputCache, check: Check) -> None:
        """Fetch a user model and write its record beside it."""
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
                # An engine reads files by their whole name, so that a half fetched one is not read.
                draft = self.directory / "checkpoint.part"
                with draft.open("wb") as file:
                    _copy(blob, file)
                draft.rename(target)

    def fetched(self) -> list[Path]:
        """The folder of inputs if there are any, as one more data root of the engine."""
        return [self.inputs] if self.inputs.is_dir() else []

    def shipped(self) -> list[tuple[ShippedFile, Path]]:
        """The engine's artifacts. Raises OSError or ValueError when its list is wrong."""
        with open_left(self.directory / "artifacts.json") as listed:
            content = listed.read(LONGEST_LIST + 1)
        if len(content) > LONGEST_LIST:
            raise ValueError(f"its list of files is longer than {LONGEST_LIST:,} bytes")
        try:
            listing = SHIPPED_FILES.validate_json(content)
        except ValidationError as error:
            raise ValueError(wrong_at("list of files", error)) from None
        if len({shipped.name for shipped in listing}) < len(listing):
            raise ValueError("two files of its list have one name")
        return [(shipped, self._inside(shipped.file)) for shipped in listing]

    def _inside(self, path: str) -> Path:
        file = (self.directory / path).resolve()
        if not file.is_relative_to(self.directory.resolve()):
            raise ValueError(f"the file {path!r} lies outside its directory, through a link")
        return file

    def clear(self, *, ended: bool) -> None:
        """Remove this attempt's folder, or all of the job's when it has `ended`."""
        shutil.rmtree(self.job if ended else self.directory, ignore_errors=True)


def open_left(path: Path) -> BinaryIO:
    """Open a file that an engine left; hostile input may have taken the engine over.

    Raises OSError when it is a link, and ValueError when it is not a regular file, since opening a pipe would block, or
    one of several names, since the others may be anybody's.
    """
    opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(opened)
    wrong = "is not a regular file" if not stat.S_ISREG(found.st_mode) else "has further names"
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(opened)
        raise ValueError(f"{path.name} {wrong}")
    return os.fdopen(opened, "rb")


def jobs_folder(storage: Path) -> Path:
    """The folder with a folder for each job that has not ended."""
    return storage / "jobs"


def sweep_folders(storage: Path, grace_seconds: float) -> int:
    """Remove folders of jobs that ended or were deleted and that did not change for that long; returns their number."""
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
