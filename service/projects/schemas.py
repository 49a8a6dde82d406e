"""What the API takes and shows of projects."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from service.projects.models import ProjectRow
from service.schemas import RequestModel, ResponseModel

MOST_DAYS = 36_500
"""A hundred years: a term that ends nothing."""


class ProjectCreate(RequestModel):
    """A project to be made."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """Unique name: small letters, digits, dots, dashes, underscores."""


class ProjectChange(RequestModel):
    """What of a project is to change; what is not named stays."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    max_running: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many of its jobs run at once at most; null sets no limit."""
    max_queued: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many of its jobs wait at once at most; null is the service's own limit."""
    max_stored_bytes: int | None = Field(default=None, ge=1, le=2**60)
    """Bytes of what it stores, at most; null is the service's own limit."""
    max_upload_bytes: int | None = Field(default=None, ge=1, le=2**60)
    """Bytes of one upload, at most; null is the service's own limit."""
    requests_per_second: float | None = Field(default=None, gt=0, le=1_000_000)
    """How often its keys together may ask; null is the service's own limit."""
    jobs_retention_days: float | None = Field(default=None, gt=0, le=MOST_DAYS)
    """How long its jobs are kept once they have ended, with all that they made; here and below, null is the service's
    own term."""
    datasets_retention_days: float | None = Field(default=None, gt=0, le=MOST_DAYS)
    """How long its data sets are kept after they were taken in or a job last used them."""
    models_retention_days: float | None = Field(default=None, gt=0, le=MOST_DAYS)
    """How long its models are kept after they were brought or a job last used them."""
    uploads_retention_days: float | None = Field(default=None, gt=0, le=MOST_DAYS)
    """How long complete uploads are kept after something was last made of them; of those that come or are used from now
    on."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError(f"nothing is to change; wanted one of {', '.join(type(self).model_fields)}")
        return self


class ProjectRead(ResponseModel):
    """A tenant that owns jobs and keys."""

    id: str
    name: str
    max_running: int | None
    """How many of its jobs run at once at most; null sets no limit."""
    max_queued: int | None
    """How many of its jobs wait at once at most; here and below, null is the service's own limit."""
    max_stored_bytes: int | None
    """Bytes of what it stores, at most."""
    max_upload_bytes: int | None
    """Bytes of one upload, at most."""
    requests_per_second: float | None
    """How often its keys together may ask."""
    jobs_retention_days: float | None
    """How long its jobs are kept once they have ended; here and below, null is the service's own term."""
    datasets_retention_days: float | None
    models_retention_days: float | None
    uploads_retention_days: float | None
    created_at: datetime


def shown(project: ProjectRow) -> ProjectRead:
    """A project as the API shows it."""
    return ProjectRead.model_validate(project, from_attributes=True)
