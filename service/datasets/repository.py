"""All SQL about users' data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, delete, select, tuple_, update
from sqlalchemy.orm import Session

from retort.ingest import ARCHIVE, REPORT
from service.artifacts.models import Artifact, Blob, Chunk
from service.artifacts.repository import drop_unreferenced
from service.datasets.models import Dataset
from service.db import AS_BYTES
from service.jobs.models import Job
from service.paging import Position
from service.workers.repository import Claim

Row = tuple[Dataset, Job | None]
"""A data set and the job that makes or made it."""


def find(session: Session, project_id: str, dataset_id: str) -> Row | None:
    """A data set of that project with its job."""
    found = session.execute(_rows(project_id).where(Dataset.id == dataset_id)).one_or_none()
    return (found[0], found[1]) if found else None


def lock(session: Session, project_id: str, dataset_id: str) -> Row | None:
    """The same; nobody else changes the data set until the transaction ends."""
    found = _rows(project_id).where(Dataset.id == dataset_id).with_for_update(of=Dataset)
    row = session.execute(found).one_or_none()
    return (row[0], row[1]) if row else None


def of_job(session: Session, job_id: str) -> Dataset | None:
    """The data set that a job makes or made."""
    return session.scalar(select(Dataset).where(Dataset.job_id == job_id))


def page(session: Session, project_id: str, after: Position | None, limit: int) -> Sequence[Row]:
    """Data sets of that project with their jobs, newest first."""
    found = _rows(project_id)
    if after is not None:
        found = found.where(tuple_(Dataset.created_at, Dataset.id) < after)
    rows = session.execute(found.order_by(Dataset.created_at.desc(), Dataset.id.desc()).limit(limit))
    return [(dataset, job) for dataset, job in rows]


def add(session: Session, dataset: Dataset) -> None:
    """Store a data set."""
    session.add(dataset)
    session.flush()


def remove(session: Session, dataset: Dataset) -> None:
    """Delete a data set with its archive, which its job's artifacts hold too."""
    forget(session, dataset)
    if dataset.blob_id is not None:
        drop_unreferenced(session, [dataset.blob_id])


def forget(session: Session, dataset: Dataset) -> None:
    """Delete a data set; its bytes are swept later."""
    session.execute(delete(Dataset).where(Dataset.id == dataset.id))
    if dataset.job_id is not None:
        session.execute(delete(Artifact).where(Artifact.job_id == dataset.job_id, Artifact.name == ARCHIVE))


def note_result(session: Session, claim: Claim, blobs: Mapping[str, str]) -> None:
    """Make a data set what its job found, in the transaction that ends the job. None is there when it was deleted."""
    told = _read_json(session, blobs[REPORT])
    archive = session.get_one(Blob, blobs[ARCHIVE])
    made = {"blob_id": archive.id, "digest": archive.sha256, "size": archive.size}
    changed = update(Dataset).where(Dataset.job_id == claim.job_id)
    session.execute(changed.values(**made, facts=told["facts"], report=told["report"]))


def find_blob(session: Session, project_id: str, dataset_id: str) -> Blob | None:
    """The archive of a data set of that project that can be used."""
    joined = select(Blob).join(Dataset, Dataset.blob_id == Blob.id)
    return session.scalar(joined.where(Dataset.id == dataset_id, Dataset.project_id == project_id))


def _rows(project_id: str) -> Select[Dataset, Job]:
    joined = select(Dataset, Job).outerjoin(Job, Job.id == Dataset.job_id)
    return joined.where(Dataset.project_id == project_id)


def _read_json(session: Session, blob_id: str) -> Any:
    chunks = select(Chunk.content).where(Chunk.blob_id == blob_id).order_by(Chunk.number)
    return json.loads(b"".join(session.scalars(chunks, execution_options=AS_BYTES)))
