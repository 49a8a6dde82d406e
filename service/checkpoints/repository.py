"""All SQL about checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from service.artifacts.models import Blob
from service.artifacts.repository import Written, commit_blob, drop_unreferenced
from service.checkpoints.models import Checkpoint
from service.db import database_now

KEPT = 2
"""How many a job keeps: the newest, and the one before in case that is found broken."""


def add(
    session: Session, job_id: str, written: Written, *, file: str, phase: str, step: int, attempt: int, fence: int
) -> None:
    """Note a checkpoint and drop all but the newest two; one that is there already stays as it is."""
    if session.scalar(select(Checkpoint.file).where(Checkpoint.job_id == job_id, Checkpoint.file == file)):
        session.execute(delete(Blob).where(Blob.id == written.id))
        return
    values = {"phase": phase, "step": step, "attempt": attempt, "fence": fence, "created_at": database_now()}
    blob_id = commit_blob(session, written)
    session.execute(insert(Checkpoint).values(job_id=job_id, file=file, blob_id=blob_id, **values))
    _drop(session, [checkpoint for checkpoint, _ in of_job(session, job_id)[KEPT:]])


def of_job(session: Session, job_id: str) -> Sequence[tuple[Checkpoint, Blob]]:
    """The job's checkpoints with their blobs, newest first."""
    found = select(Checkpoint, Blob).join(Blob, Blob.id == Checkpoint.blob_id).where(Checkpoint.job_id == job_id)
    rows = session.execute(found.order_by(Checkpoint.created_at.desc(), Checkpoint.file.desc()))
    return [(checkpoint, blob) for checkpoint, blob in rows]


def drop_all(session: Session, job_id: str) -> None:
    """Forget the checkpoints of a job that has ended, and their bytes."""
    _drop(session, [checkpoint for checkpoint, _ in of_job(session, job_id)])


def _drop(session: Session, checkpoints: Sequence[Checkpoint]) -> None:
    for checkpoint in checkpoints:
        gone = (Checkpoint.job_id == checkpoint.job_id, Checkpoint.file == checkpoint.file)
        session.execute(delete(Checkpoint).where(*gone).execution_options(synchronize_session=False))
    drop_unreferenced(session, [checkpoint.blob_id for checkpoint in checkpoints])
