"""Workers, as far as the database knows them."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base


class Worker(Base):
    """A worker process that was alive at `seen_at`."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Host, process and a random part; the owner named in leases."""
    host: Mapped[str]
    job_id: Mapped[str | None]
    started_at: Mapped[float]
    seen_at: Mapped[float]
