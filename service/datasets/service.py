"""What one can do with data sets: ask which come along, and have one's own taken in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from retort.dataset import DatasetError
from retort.datasets import DATASETS
from retort.datasets._roots import Roots
from retort.ingest import Ingest
from retort.kinds import INGEST
from service.catalogue import EntryRead, entry_read
from service.datasets import repository
from service.datasets.models import Dataset, DatasetState, state_of
from service.datasets.repository import Row
from service.errors import Conflict, FieldError, Invalid, NotFound, quote
from service.fields import field_errors
from service.ids import new_id
from service.jobs.service import Sent, enqueue, made_before
from service.jobs.uses import check_unused
from service.keys.service import Caller
from service.paging import Position
from service.settings import get_settings
from service.uploads.models import UploadKind
from service.uploads.service import use

COPIES = 3
"""Of an upload on a worker's disk at most, as images hardly shrink: fetched, unpacked, and packed again."""


def every() -> list[EntryRead]:
    """All data sets that come along, by name."""
    return [entry_read(name, entry) for name, entry in DATASETS.items()]


def create(session: Session, caller: Caller, body: Any, idempotency_key: str | None) -> tuple[Row, bool]:
    """A new data set and the queued job that makes it, or those that the same key and body made before, and whether
    they are those.

    Raises Invalid with all that is wrong, and what enqueue does. The session takes no connection before the source has
    been looked for, which may be a folder far away.
    """
    try:
        spec = Ingest.model_validate(body)
    except ValidationError as error:
        raise Invalid.of(field_errors(error, Ingest)) from None
    wrong = _wrong_folder(spec) or _wrong_limit(spec)
    limits = spec.limits.model_copy(update={"files": spec.limits.files or get_settings().max_dataset_files})
    spec = spec.model_copy(update={"limits": limits})
    sent = Sent(INGEST, body, idempotency_key)
    needs = 0
    if made_before(session, caller, sent) is None:
        if wrong is not None:
            raise Invalid.of([wrong])
        if spec.source.upload is not None:
            upload = use(session, caller.project_id, spec.source.upload, UploadKind.dataset, "/source/upload")
            needs = COPIES * upload.size
    job, replayed = enqueue(session, caller, sent, spec, name=spec.name, needs_disk_bytes=needs)
    if replayed:
        before = repository.of_job(session, job.id)
        if before is None:
            said = f"the data set that the idempotency key {quote(idempotency_key)} made was deleted; wanted a new key"
            raise Invalid.of([FieldError(parameter="Idempotency-Key", detail=said, found=idempotency_key)])
        return (before, job), True
    dataset = Dataset(
        id=new_id("dataset", job.created_at),
        project_id=caller.project_id,
        name=spec.name,
        job_id=job.id,
        source=spec.source.model_dump(mode="json"),
        created_at=job.created_at,
    )
    repository.add(session, dataset)
    return (dataset, job), False


def read(session: Session, caller: Caller, dataset_id: str) -> Row:
    """The data set and its job. Raises NotFound, for another project's data set as for none."""
    return _existing(repository.find(session, caller.project_id, dataset_id), dataset_id)


def page(session: Session, caller: Caller, after: Position | None, limit: int) -> Sequence[Row]:
    """The project's data sets with their jobs, newest first."""
    return repository.page(session, caller.project_id, after, limit)


def delete(session: Session, caller: Caller, dataset_id: str) -> None:
    """Remove a data set that nothing uses, with its bytes. Raises NotFound and Conflict."""
    dataset, job = _existing(repository.lock(session, caller.project_id, dataset_id), dataset_id)
    if state_of(dataset, job) is DatasetState.ingesting:
        raise Conflict(f"data set {dataset_id} is being taken in by job {dataset.job_id}, so cancel that first")
    check_unused(session, caller.project_id, dataset_id)
    repository.remove(session, dataset)


def _wrong_folder(spec: Ingest) -> FieldError | None:
    """What is wrong with a folder, as far as it can be told here: a worker may see it where this machine does not."""
    path = spec.source.folder
    if path is None:
        return None
    try:
        roots = Roots(get_settings().data_roots)
        folder = roots.folder(path)
        if roots.are_here(folder) and not folder.is_dir():
            raise DatasetError(f"{path!r} is no folder")
    except DatasetError as error:
        return FieldError(pointer="/source/folder", detail=str(error), found=path)
    return None


def _wrong_limit(spec: Ingest) -> FieldError | None:
    files, most = spec.limits.files, get_settings().max_dataset_files
    if files is None or files <= most:
        return None
    detail = f"{files:,} files are more than the {most:,} that this server takes in"
    return FieldError(pointer="/limits/files", detail=detail, found=files)


def _existing(row: Row | None, dataset_id: str) -> Row:
    if row is None:
        raise NotFound(f"there is no data set {quote(dataset_id)}")
    return row
