"""Projects: the tenants that own things."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base


class ProjectRow(Base):
    """Owns jobs, keys and all that they make."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    served_at: Mapped[float] = mapped_column(default=0.0)
    """When a job of this project was last claimed: the project served longest ago comes first."""
    max_running: Mapped[int | None]
    """Most of its jobs that run at once; null sets no limit."""
    max_queued: Mapped[int | None]
    """Most of its jobs that wait at once; here and below, null leaves it to the settings."""
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_upload_bytes: Mapped[int | None] = mapped_column(BigInteger)
    requests_per_second: Mapped[float | None]
    jobs_retention_days: Mapped[float | None]
    """Days for which its ended jobs stay."""
    datasets_retention_days: Mapped[float | None]
    """Days for which its data sets stay that no job uses; its models and uploads likewise."""
    models_retention_days: Mapped[float | None]
    uploads_retention_days: Mapped[float | None]
    created_at: Mapped[float]
