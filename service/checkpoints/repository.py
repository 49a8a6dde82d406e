"""All SQL about checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from service.blobs.models import BlobRow
from service.blobs.repository import BlobDraft, commit_blob, drop_unreferenced
from service.checkpoints.models import CheckpointRow
from service.db import database_now

KEPT = 2
"""Number of checkpoints of a job: the newest, and the one before in case that is found broken."""


def add(
    session: Session, job_id: str, written: BlobDraft, *, file: str, phase: str, step: int, attempt: int, fence: int
) -> None:
    """Note a checkpoint and drop all but the newest two; one that is there already stays as it is."""
    if session.scalar(select(CheckpointRow.file).where(CheckpointRow.job_id == job_id, CheckpointRow.file == file)):
        session.execute(delete(BlobRow).where(BlobRow.id == written.id))
        return
    values = {"phase": phase, "step": step, "attempt": attempt, "fence": fence, "created_at": database_now()}
    blob_id = commit_blob(session, written)
    session.execute(insert(CheckpointRow).values(job_id=job_id, file=file, blob_id=blob_id, **values))
    _drop(session, [checkpoint for checkpoint, _ in of_job(session, job_id)[KEPT:]])


def of_job(session: Session, job_id: str) -> Sequence[tuple[CheckpointRow, BlobRow]]:
    """The job's checkpoints with their blobs, newest first: by claim, and by the number that a file's name begins with,
    since a clock may be set back."""
    found = (
        select(CheckpointRow, BlobRow)
        .join(BlobRow, BlobRow.id == CheckpointRow.blob_id)
        .where(CheckpointRow.job_id == job_id)
    )
    rows = session.execute(found.order_by(CheckpointRow.fence.desc(), CheckpointRow.file.desc()))
    return [(checkpoint, blob) for checkpoint, blob in rows]


def drop_all(session: Session, job_id: str) -> None:
    """Forget the checkpoints of a job that has ended, and their bytes."""
    _drop(session, [checkpoint for checkpoint, _ in of_job(session, job_id)])


def _drop(session: Session, checkpoints: Sequence[CheckpointRow]) -> None:
    for checkpoint in checkpoints:
        gone = (CheckpointRow.job_id == checkpoint.job_id, CheckpointRow.file == checkpoint.file)
        session.execute(delete(CheckpointRow).where(*gone).execution_options(synchronize_session=False))
    drop_unreferenced(session, [checkpoint.blob_id for checkpoint in checkpoints])
