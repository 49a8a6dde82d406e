"""The keys that callers show."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column

from service.access.scopes import PROJECT_SCOPES, Scope, read, spell
from service.db import Base

ALL = spell(PROJECT_SCOPES)


class KeyRow(Base):
    """A bearer key of a project. Only its hash is stored."""

    __tablename__ = "keys"

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    prefix: Mapped[str]
    """The first characters, to recognise it by."""
    sha256: Mapped[str] = mapped_column(unique=True)
    admin: Mapped[bool] = mapped_column(default=False)
    """Whether it has the scope `admin`, which implies all others and sees all projects' keys."""
    scopes: Mapped[str] = mapped_column(default=ALL, server_default=ALL)
    """The other scopes that it has, separated by spaces; an admin's has all."""
    replaces: Mapped[str | None] = mapped_column(index=True, unique=True)
    """Id of the key whose successor it is: a key has one at most."""
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    """From then on it opens nothing."""
    used_at: Mapped[float | None]
    """Written once a minute at most."""
    revoked_at: Mapped[float | None]

    @property
    def granted(self) -> frozenset[Scope]:
        """Its scopes; `admin` stands for all."""
        return frozenset({"admin"}) if self.admin else read(self.scopes)
