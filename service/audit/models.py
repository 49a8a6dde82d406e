"""The audit log's table."""

from __future__ import annotations

from sqlalchemy import JSON, Index
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base


class AuditRow(Base):
    """One request that changed something, or would have; or one removal by a project's retention."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_at", "at", "id"), Index("ix_audit_project", "project_id", "at", "id"))

    # No references: an entry outlives the things that it names.
    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[float]
    project_id: Mapped[str | None]
    """Of the key; null for who showed none that is live."""
    key_id: Mapped[str | None]
    method: Mapped[str]
    """Of HTTP; or `retention`."""
    route: Mapped[str]
    """The address as the OpenAPI has it."""
    about: Mapped[dict[str, str]] = mapped_column(JSON)
    """Ids and names in the address, and of what was made."""
    status: Mapped[int]
    """The HTTP status that it was answered with."""
    request_id: Mapped[str]
