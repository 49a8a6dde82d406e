"""What the API takes and shows of keys."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from service.keys.models import Key
from service.schemas import Asked, Shown


class KeyCreate(Asked):
    """A key to be made."""

    name: str = Field(min_length=1, max_length=100)
    """What it is for, for people."""
    project: str | None = Field(default=None, min_length=1, max_length=100)
    """Name of the project that it opens; null is the caller's own. Another one needs an admin key."""
    admin: bool = False
    """Whether it may make projects, and keys for other projects. Needs an admin key."""


class KeyRead(Shown):
    """A key, by all but its secret."""

    id: str
    name: str
    prefix: str
    """Its first characters, to recognise it by."""
    project: str
    """Name of the project that it opens."""
    admin: bool
    """Whether it may make projects, and keys for other projects."""
    created_at: datetime
    used_at: datetime | None
    """When it was last used, to the minute."""
    revoked_at: datetime | None
    """Since when it opens nothing."""


class KeyMade(KeyRead):
    """A key that was just made."""

    key: str
    """The secret; it is shown this once."""


def shown(key: Key, project: str) -> KeyRead:
    """A key as the API shows it, with its project's name."""
    return KeyRead(
        id=key.id, name=key.name, prefix=key.prefix, project=project, admin=key.admin, created_at=key.created_at,
        used_at=key.used_at, revoked_at=key.revoked_at,
    )  # fmt: skip
