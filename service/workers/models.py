"""Workers, as far as the database knows them."""

from __future__ import annotations

from sqlalchemy import BigInteger
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base


class WorkerRow(Base):
    """A worker process that was alive at `seen_at`."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Host, process and a random part; the owner named in leases."""
    host: Mapped[str]
    job_id: Mapped[str | None]
    gpu: Mapped[str | None]
    """Its GPU's name; null when it has none."""
    memory_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """The GPU's memory, or the machine's without one."""
    disk_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")
    """Room on its disk that jobs may fill."""
    started_at: Mapped[float]
    seen_at: Mapped[float]
