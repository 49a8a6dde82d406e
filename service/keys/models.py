"""Keys: what a caller shows to be let in."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.db import Base


class Key(Base):
    """A bearer key of a project. Only its hash is stored."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    prefix: Mapped[str]
    """The first characters, to recognise it by."""
    sha256: Mapped[str] = mapped_column(unique=True)
    admin: Mapped[bool] = mapped_column(default=False)
    """Whether it may make projects, and keys for other projects."""
    created_at: Mapped[float]
    used_at: Mapped[float | None]
    """Written once a minute at most."""
    revoked_at: Mapped[float | None]
