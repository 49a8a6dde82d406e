"""All SQL about uploads; what is about their bytes alone stands in service.blobs.repository."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, exists, func, or_, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from service.artifacts.models import ArtifactRow
from service.blobs.models import BlobRow
from service.db import database_now
from service.jobs.models import JobRow
from service.jobs.uses import users
from service.paging import Position
from service.uploads.models import UploadPartRow, UploadRow, UploadState
from service.uploads.schemas import UploadQuery


@dataclass(frozen=True)
class UploadSnapshot:
    """An upload as it stands at a moment."""

    upload: UploadRow
    now: float
    """The moment, in epoch seconds by the database's clock."""


def add(session: Session, upload: UploadRow) -> bool:
    """Store an upload; False when its project has one of that idempotency key, also by a request of the same moment."""
    try:
        with session.begin_nested():
            session.add(upload)
            session.flush()
    except IntegrityError:
        return False
    return True


def find(session: Session, project_id: str, upload_id: str, *, lock: bool = False) -> UploadSnapshot | None:
    """An upload of that project, expired ones too; locked, nobody else changes it until the transaction ends."""
    found = select(UploadRow, database_now()).where(UploadRow.id == upload_id, UploadRow.project_id == project_id)
    row = session.execute(found.with_for_update() if lock else found).one_or_none()
    return UploadSnapshot(*row) if row else None


def find_blob(session: Session, project_id: str, upload_id: str) -> BlobRow | None:
    """The bytes of a complete upload of that project."""
    whole = (UploadRow.id == upload_id, UploadRow.project_id == project_id, UploadRow.state == UploadState.complete)
    return session.scalar(select(BlobRow).join(UploadRow, UploadRow.blob_id == BlobRow.id).where(*whole))


def by_idempotency_key(session: Session, project_id: str, key: str) -> UploadSnapshot | None:
    """The upload that was begun under that key."""
    found = select(UploadRow, database_now()).where(
        UploadRow.project_id == project_id, UploadRow.idempotency_key == key
    )
    row = session.execute(found).one_or_none()
    return UploadSnapshot(*row) if row else None


def page(
    session: Session, project_id: str, query: UploadQuery, after: Position | None, limit: int
) -> Sequence[UploadRow]:
    """Uploads of that project that the query asks for and that have not expired, newest first."""
    found = select(UploadRow).where(UploadRow.project_id == project_id, UploadRow.expires_at > database_now())
    for column in ("state", "kind", "sha256"):
        if (wanted := getattr(query, column)) is not None:
            found = found.where(getattr(UploadRow, column) == wanted)
    if after is not None:
        found = found.where(tuple_(UploadRow.created_at, UploadRow.id) < after)
    return session.scalars(found.order_by(UploadRow.created_at.desc(), UploadRow.id.desc()).limit(limit)).all()


def stored_blob(session: Session, project_id: str, sha256: str, size: int) -> str | None:
    """The blob of those bytes, touched, where the project itself has them: knowing a digest is no way to the bytes of
    others."""
    uploaded = exists().where(
        UploadRow.blob_id == BlobRow.id, UploadRow.project_id == project_id, UploadRow.state == UploadState.complete,
        UploadRow.expires_at > database_now(),
    )  # fmt: skip
    made = exists().where(
        ArtifactRow.blob_id == BlobRow.id, ArtifactRow.job_id == JobRow.id, JobRow.project_id == project_id
    )
    same = (BlobRow.sha256 == sha256, BlobRow.size == size, or_(uploaded, made))
    touched = update(BlobRow).where(*same).values(touched_at=database_now()).returning(BlobRow.id)
    return session.scalar(touched.execution_options(synchronize_session=False))


def parts_of(session: Session, upload_id: str) -> Sequence[UploadPartRow]:
    """The parts that have come, by number."""
    found = select(UploadPartRow).where(UploadPartRow.upload_id == upload_id)
    return session.scalars(found.order_by(UploadPartRow.number)).all()


def received_bytes(session: Session, upload_ids: Sequence[str]) -> dict[str, int]:
    """Bytes of each upload that have come, in whole parts; an upload without any is left out."""
    found = select(UploadPartRow.upload_id, func.sum(UploadPartRow.size)).where(UploadPartRow.upload_id.in_(upload_ids))
    return {upload_id: int(count) for upload_id, count in session.execute(found.group_by(UploadPartRow.upload_id))}


def put_part(session: Session, part: UploadPartRow) -> None:
    """Note a part, in the place of one of that number that came before."""
    session.merge(part)
    session.flush()


def forget_parts(session: Session, upload_id: str) -> None:
    """Forget which parts have come."""
    session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id))


def remove(session: Session, upload: UploadRow) -> None:
    """Delete an upload with its parts; bytes that nobody else can refer to are the next sweep's."""
    session.execute(delete(UploadRow).where(UploadRow.id == upload.id))
    let_go(session, [upload.blob_id])


def remove_expired(session: Session) -> int:
    """Delete uploads whose time is over and that no job goes on to use; gives how many."""
    expired = select(UploadRow).where(UploadRow.expires_at <= database_now()).with_for_update(skip_locked=True)
    by_project: dict[str, list[UploadRow]] = {}
    for upload in session.scalars(expired):
        by_project.setdefault(upload.project_id, []).append(upload)
    count = 0
    for project_id, uploads in by_project.items():
        used = users(session, project_id, {upload.id for upload in uploads})
        for upload in uploads:
            if upload.id not in used:
                remove(session, upload)
                count += 1
    return count


def let_go(session: Session, blob_ids: Sequence[str]) -> None:
    """Leave blobs without a name, which nobody else can come to refer to, to the next sweep."""
    for blob_id in blob_ids:
        session.execute(update(BlobRow).where(BlobRow.id == blob_id, BlobRow.sha256.is_(None)).values(touched_at=0.0))
