"""All SQL about what projects use."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import CompoundSelect, bindparam, func, select, union
from sqlalchemy.orm import Session

from service.artifacts.models import Artifact, Blob
from service.checkpoints.models import Checkpoint
from service.datasets.models import Dataset
from service.db import database_now
from service.jobs.models import Job, State
from service.jobs.repository import is_state
from service.models.models import Model
from service.projects.models import Project
from service.uploads.models import Upload, UploadState


@dataclass(frozen=True)
class Standing:
    """What is asked of a project when it makes a job."""

    max_queued: int | None
    max_stored_bytes: int | None
    """Both its own."""
    queued: int
    """How many of its jobs wait."""
    now: float
    """Epoch seconds by the database's clock."""


def standing(session: Session, project_id: str) -> Standing:
    """How the project stands."""
    return Standing(*session.connection().execute(_STANDING, {"project_id": project_id}).one())


def lock(session: Session, project_id: str) -> Project:
    """The project as it stands, which nobody else locks until the transaction ends; others may refer to it."""
    found = select(Project).where(Project.id == project_id).with_for_update(key_share=True)
    return session.scalars(found.execution_options(populate_existing=True)).one()


def read(session: Session, project_id: str) -> Project:
    """The project as it stands."""
    return session.scalars(select(Project).where(Project.id == project_id)).one()


def count_jobs(session: Session, project_id: str, state: State) -> int:
    """How many of the project's jobs are in that state."""
    counted = select(func.count()).select_from(Job).where(Job.project_id == project_id, is_state(Job, state))
    return session.scalars(counted).one()


def stored_bytes(session: Session, project_id: str) -> int:
    """Bytes of the blobs that the project's things refer to, each blob once, and what open uploads promise."""
    total = select(func.sum(Blob.size)).where(Blob.id.in_(_blobs_of(project_id)))
    open_ones = (Upload.project_id == project_id, Upload.state == UploadState.open)
    promised = select(func.sum(Upload.size)).where(*open_ones)
    return sum(int(session.scalars(count).one() or 0) for count in (total, promised))


def _blobs_of(project_id: str) -> CompoundSelect[tuple[str]]:
    """Ids of those blobs, each once: one line for every table that refers to blobs."""
    own = Job.project_id == project_id
    return union(
        select(Artifact.blob_id).join(Job, Job.id == Artifact.job_id).where(own),
        select(Checkpoint.blob_id).join(Job, Job.id == Checkpoint.job_id).where(own),
        select(Dataset.blob_id).where(Dataset.project_id == project_id, Dataset.blob_id.is_not(None)),
        select(Model.blob_id).where(Model.project_id == project_id),
        select(Upload.blob_id).where(Upload.project_id == project_id),
    )


_projects, _jobs = Project.__table__.c, Job.__table__.c
_queued = select(func.count()).where(_jobs.project_id == _projects.id, is_state(Job, State.queued)).scalar_subquery()
_STANDING = select(_projects.max_queued, _projects.max_stored_bytes, _queued, database_now()).where(
    _projects.id == bindparam("project_id")
)
"""Built once and without the ORM: each job that is made asks it."""
