"""Projects as the API takes and shows them."""

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
    """Changes of a project; fields that are not named stay."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    max_running: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most jobs of the project that run at once; null sets no limit."""
    max_queued: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most jobs of the project that wait at once; null is the service's own limit."""
    max_stored_bytes: int | None = Field(default=None, ge=1, le=2**60)
    """Bytes of what it stores, at most; null is the service's own limit."""
    max_upload_bytes: int | None = Field(default=None, ge=1, le=2**60)
    """Bytes of one upload, at most; null is the service's own limit."""
    requests_per_second: float | None = Field(default=None, gt=0, le=1_000_000)
    """Most requests a second of its keys together; null is the service's own limit."""
    jobs_retention_days: float | None = Field(default=None, gt=0, le=MOST_DAYS)
    """Days for which its jobs stay once they have ended, with all that they made; here and below, null is the
    service's own retention."""
    datasets_retention_days: float | None = Field(default=None, gt=0, le=MOST_DAYS)
    """Days for which its data sets stay after they were taken in or a job last used them."""
    models_retention_days: float | None = Field(default=None, gt=0, le=MOST_DAYS)
    """Days for which its models stay after they were made or a job last used them."""
    uploads_retention_days: float | None = Field(default=None, gt=0, le=MOST_DAYS)
    """Days for which complete uploads stay after something was last made of them; of those that come or are used from
    now on."""

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
    """Most jobs of the project that run at once; null sets no limit."""
    max_queued: int | None
    """Most jobs of the project that wait at once; here and below, null is the service's own limit."""
    max_stored_bytes: int | None
    """Bytes of what it stores, at most."""
    max_upload_bytes: int | None
    """Bytes of one upload, at most."""
    requests_per_second: float | None
    """Most requests a second of its keys together."""
    jobs_retention_days: float | None
    """Days for which its jobs stay once they have ended; here and below, null is the service's own retention."""
    datasets_retention_days: float | None
    models_retention_days: float | None
    uploads_retention_days: float | None
    created_at: datetime


def shown(project: ProjectRow) -> ProjectRead:
    """A project as the API shows it."""
    return ProjectRead.model_validate(project, from_attributes=True)
