"""Limits and use as the API shows them."""

from __future__ import annotations

from service.schemas import ResponseModel


class ProjectLimits(ResponseModel):
    """The limits of a project, its own or else the service's."""

    max_running: int | None
    """Most jobs that run at once; null is any number."""
    max_queued: int
    """Most jobs that wait at once."""
    max_stored_bytes: int
    """Bytes of its uploads, data sets, models, artifacts and checkpoints."""
    max_upload_bytes: int
    """Bytes of one upload."""
    requests_per_second: float
    """Most requests a second of its keys together, in the long run; ten seconds' worth at once."""
    jobs_retention_days: float | None
    """Days for which its jobs stay once they have ended, with all that they made; null, as below, is for ever."""
    datasets_retention_days: float | None
    """Days for which its data sets stay after they were taken in or a job last used them."""
    models_retention_days: float | None
    """Days for which its models stay after they were made or a job last used them."""
    uploads_retention_days: float
    """Days for which complete uploads stay after something was last made of them."""


class UsageCounts(ResponseModel):
    """The present use of a project."""

    running: int
    """Jobs."""
    queued: int
    """Jobs."""
    stored_bytes: int
    """Each blob once, however many of its things refer to it."""


class Usage(ResponseModel):
    """The limits of a project and its present use."""

    project: str
    """Its name."""
    limits: ProjectLimits
    used: UsageCounts
