"""All SQL about users' models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select, delete, select, tuple_, update
from sqlalchemy.orm import Session

from retort.check import REPORT
from service.artifacts.models import Blob, Chunk
from service.artifacts.repository import drop_unreferenced
from service.db import AS_BYTES
from service.jobs.models import Job
from service.models.models import Model
from service.paging import Position
from service.workers.repository import Claim

Row = tuple[Model, Job | None]
"""A model and the job that takes or took it in."""


def find(session: Session, project_id: str, model_id: str) -> Row | None:
    """A model of that project with its job."""
    row = session.execute(_rows(project_id).where(Model.id == model_id)).one_or_none()
    return (row[0], row[1]) if row else None


def lock(session: Session, project_id: str, model_id: str) -> Row | None:
    """The same; nobody else changes the model until the transaction ends."""
    row = session.execute(_rows(project_id).where(Model.id == model_id).with_for_update(of=Model)).one_or_none()
    return (row[0], row[1]) if row else None


def of_job(session: Session, job_id: str) -> Model | None:
    """The model that a job takes or took in."""
    return session.scalar(select(Model).where(Model.job_id == job_id))


def page(session: Session, project_id: str, after: Position | None, limit: int) -> Sequence[Row]:
    """Models of that project with their jobs, newest first."""
    found = _rows(project_id)
    if after is not None:
        found = found.where(tuple_(Model.created_at, Model.id) < after)
    rows = session.execute(found.order_by(Model.created_at.desc(), Model.id.desc()).limit(limit))
    return [(model, job) for model, job in rows]


def add(session: Session, model: Model) -> None:
    """Store a model."""
    session.add(model)
    session.flush()


def remove(session: Session, model: Model) -> None:
    """Delete a model, and its bytes where nothing else refers to them."""
    forget(session, model)
    drop_unreferenced(session, [model.blob_id])


def forget(session: Session, model: Model) -> None:
    """Delete a model; its bytes are swept later."""
    session.execute(delete(Model).where(Model.id == model.id))


def note_result(session: Session, claim: Claim, blobs: Mapping[str, str]) -> None:
    """Write down what the job found that takes a model in, in the transaction that ends it; others change nothing."""
    if claim.spec["dataset"] is not None:
        return
    report = _read_json(session, blobs[REPORT])
    known = {name: report["model"][name] for name in ("classes", "class_names", "expects", "card")}
    changed = update(Model).where(Model.job_id == claim.job_id)
    session.execute(changed.values(**known, report={k: v for k, v in report.items() if k != "model"}))


def find_blob(session: Session, project_id: str, model_id: str) -> Blob | None:
    """The file of a model of that project."""
    joined = select(Blob).join(Model, Model.blob_id == Blob.id)
    return session.scalar(joined.where(Model.id == model_id, Model.project_id == project_id))


def _rows(project_id: str) -> Select[Model, Job]:
    joined = select(Model, Job).outerjoin(Job, Job.id == Model.job_id)
    return joined.where(Model.project_id == project_id)


def _read_json(session: Session, blob_id: str) -> Any:
    chunks = select(Chunk.content).where(Chunk.blob_id == blob_id).order_by(Chunk.number)
    return json.loads(b"".join(session.scalars(chunks, execution_options=AS_BYTES)))
