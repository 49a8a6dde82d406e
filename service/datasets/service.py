"""Built-in data sets, and the ingestion of user data sets."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from retort.dataset import DataFacts, Dataset, DatasetError, ImageClassFacts
from retort.datasets import DATASETS
from retort.datasets._roots import Roots
from retort.datasets.stored import StoredDataset
from retort.ingest import Ingest
from retort.kinds import INGEST
from service.access.caller import Caller
from service.catalogue import EntryRead, entry_read
from service.datasets.models import DatasetRow
from service.datasets.products import PRODUCTS
from service.db import reading
from service.errors import FieldError, Invalid
from service.fields import field_errors
from service.ids import new_id
from service.job_creation.service import Submission, enqueue, made_before
from service.products.repository import RowAndJob, add
from service.settings import get_settings
from service.uploads.models import UploadKind
from service.uploads.service import use

COPIES = 3
"""Of an upload on a worker's disk at most, as images hardly shrink: fetched, unpacked, and packed again."""


def every() -> list[EntryRead]:
    """All data sets that come along, by name."""
    return [entry_read(name, entry) for name, entry in DATASETS.items()]


def create(
    session: Session, caller: Caller, body: Any, idempotency_key: str | None
) -> tuple[RowAndJob[DatasetRow], bool]:
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
    sent = Submission(INGEST, body, idempotency_key)
    needs = 0
    if made_before(session, caller, sent) is None:
        if wrong is not None:
            raise Invalid.of([wrong])
        if spec.source.upload is not None:
            upload = use(session, caller.project_id, spec.source.upload, UploadKind.dataset, "/source/upload")
            needs = COPIES * upload.size
    job, replayed = enqueue(session, caller, sent, spec, name=spec.name, needs_disk_bytes=needs)
    if replayed:
        return PRODUCTS.made_by(session, job, sent), True
    dataset = DatasetRow(
        id=new_id("dataset", job.created_at),
        project_id=caller.project_id,
        name=spec.name,
        job_id=job.id,
        source=spec.source.model_dump(mode="json"),
        created_at=job.created_at,
    )
    add(session, dataset)
    return (dataset, job), False


def dataset_warnings(project_id: str, dataset: Dataset) -> list[str]:
    """Sentences about what is odd about the use of a data set that can be used; none for others."""
    if not isinstance(dataset, StoredDataset):
        return []
    try:
        return list(dataset.size_warnings(_own_facts(project_id, dataset)))
    except DatasetError:
        return []


def facts_of(project_id: str, dataset: Dataset) -> DataFacts | None:
    """The facts of a data set that a spec names, as far as they are known here: those of users' own are in the
    database; None where only a worker knows them. Raises DatasetError and OSError."""
    if not isinstance(dataset, StoredDataset):
        return dataset.facts(get_settings().data_roots)
    return dataset.at_its_size(_own_facts(project_id, dataset))


def _own_facts(project_id: str, dataset: StoredDataset) -> ImageClassFacts:
    """The facts of a user data set, at its own size. Raises DatasetError where it cannot be used."""
    with reading() as session:
        found = PRODUCTS.find(session, project_id, dataset.dataset)
    if found is None:
        raise DatasetError(f"there is no data set {dataset.dataset!r}")
    if trouble := PRODUCTS.trouble_of(*found):
        raise DatasetError(f"data set {dataset.dataset} cannot be used: {trouble}")
    return ImageClassFacts.model_validate(found[0].facts)


def dataset_problem(project_id: str, dataset: Dataset) -> str | None:
    """One sentence why a data set cannot be used, if it cannot and that shows here."""
    try:
        facts_of(project_id, dataset)
    except DatasetError as error:
        return str(error)
    except OSError as error:
        return f"the data set cannot be read: {error.strerror}"
    return None


def _wrong_folder(spec: Ingest) -> FieldError | None:
    """The error in a folder, as far as it shows here: a worker may see the folder where this machine does not."""
    path = spec.source.folder
    if path is None:
        return None
    try:
        roots = Roots(get_settings().data_roots)
        folder = roots.folder(path)
        if roots.are_here(folder) and not folder.is_dir():
            raise DatasetError(f"{path!r} is not a folder")
    except DatasetError as error:
        return FieldError(pointer="/source/folder", detail=str(error), found=path)
    return None


def _wrong_limit(spec: Ingest) -> FieldError | None:
    files, most = spec.limits.files, get_settings().max_dataset_files
    if files is None or files <= most:
        return None
    detail = f"{files:,} files are more than the {most:,} that this server takes in"
    return FieldError(pointer="/limits/files", detail=detail, found=files)
