"""What the API shows of limits and use."""

from __future__ import annotations

from service.schemas import ResponseModel


class ProjectLimits(ResponseModel):
    """What a project may use, its own limits or else the service's."""

    max_running: int | None
    """How many of its jobs run at once; null is any number."""
    max_queued: int
    """How many of its jobs wait at once."""
    max_stored_bytes: int
    """Bytes of its uploads, data sets, models, artifacts and checkpoints."""
    max_upload_bytes: int
    """Bytes of one upload."""
    requests_per_second: float
    """How often its keys together may ask, in the long run; ten seconds' worth at once."""
    jobs_retention_days: float | None
    """How long its jobs are kept once they have ended, with all that they made; null, as below, is for ever."""
    datasets_retention_days: float | None
    """How long its data sets are kept after they were taken in or a job last used them."""
    models_retention_days: float | None
    """How long its models are kept after they were brought or a job last used them."""
    uploads_retention_days: float
    """How long complete uploads are kept after something was last made of them."""


class UsageCounts(ResponseModel):
    """What a project uses now."""

    running: int
    """Jobs."""
    queued: int
    """Jobs."""
    stored_bytes: int
    """Each blob once, however many of its things refer to it."""


class Usage(ResponseModel):
    """What a project may use and what it uses."""

    project: str
    """Its name."""
    limits: ProjectLimits
    used: UsageCounts
