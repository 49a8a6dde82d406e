"""What the API takes and shows of projects."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from service.projects.models import Project
from service.schemas import Asked, Shown


class ProjectCreate(Asked):
    """A project to be made."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    """Unique name: small letters, digits, dots, dashes, underscores."""


class ProjectChange(Asked):
    """What of a project is to change."""

    max_running: int | None = Field(ge=1, le=1_000_000)
    """How many of its jobs run at once at most; null sets no limit."""


class ProjectRead(Shown):
    """A tenant that owns jobs and keys."""

    id: str
    name: str
    max_running: int | None
    """How many of its jobs run at once at most; null sets no limit."""
    created_at: datetime


def shown(project: Project) -> ProjectRead:
    """A project as the API shows it."""
    return ProjectRead(id=project.id, name=project.name, max_running=project.max_running, created_at=project.created_at)
