"""All SQL about artifacts."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from service.artifacts.models import ArtifactRow
from service.blobs.models import BlobRow
from service.db import database_now
from service.jobs.models import JobRow


def add_artifact(
    session: Session, job_id: str, *, name: str, network: str | None, media_type: str, blob_id: str
) -> None:
    """Note a file that a job made."""
    values = {"name": name, "network": network, "media_type": media_type, "blob_id": blob_id}
    session.execute(insert(ArtifactRow).values(job_id=job_id, created_at=database_now(), **values))


def artifacts_of(session: Session, job_id: str) -> Sequence[tuple[ArtifactRow, BlobRow]]:
    """Every file of a job with its blob, by name."""
    found = (
        select(ArtifactRow, BlobRow)
        .join(BlobRow, BlobRow.id == ArtifactRow.blob_id)
        .where(ArtifactRow.job_id == job_id)
    )
    return [(artifact, blob) for artifact, blob in session.execute(found.order_by(ArtifactRow.name))]


def find_artifact(session: Session, project_id: str, job_id: str, name: str) -> tuple[ArtifactRow, BlobRow] | None:
    """A file of a job of that project with its blob."""
    wanted = (ArtifactRow.job_id == job_id, ArtifactRow.name == name, JobRow.project_id == project_id)
    joined = (
        select(ArtifactRow, BlobRow)
        .join(BlobRow, BlobRow.id == ArtifactRow.blob_id)
        .join(JobRow, JobRow.id == ArtifactRow.job_id)
    )
    row = session.execute(joined.where(*wanted)).one_or_none()
    return (row[0], row[1]) if row else None


def remove_artifact(session: Session, job_id: str, name: str) -> None:
    """Forget a file of a job; its bytes are swept later."""
    session.execute(delete(ArtifactRow).where(ArtifactRow.job_id == job_id, ArtifactRow.name == name))
