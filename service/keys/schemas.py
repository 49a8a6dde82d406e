"""Keys as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, Field

from service.access.scopes import PROJECT_SCOPES, SCOPES, Scope
from service.keys.models import KeyRow
from service.schemas import QueryModel, RequestModel, ResponseModel

LONGEST_GRACE_SECONDS = 30 * 86_400


class KeyCreate(RequestModel):
    """A key to be made."""

    name: str = Field(min_length=1, max_length=100)
    """Its purpose, for people."""
    project: str | None = Field(default=None, min_length=1, max_length=100)
    """Name of the project that it opens; null is the caller's own."""
    scopes: list[Scope] = Field(default=list(PROJECT_SCOPES), min_length=1, max_length=len(SCOPES))
    """Its scopes; `admin` implies all others. By default all that concern its project alone."""
    expires_at: AwareDatetime | None = None
    """The time at which it ends by itself; null is never."""


class RotateQuery(QueryModel):
    """The query of a rotation."""

    grace_seconds: int = Field(default=86_400, ge=0, le=LONGEST_GRACE_SECONDS)
    """Seconds for which the old key goes on, for clients that have not got the new one yet."""


class KeyRead(ResponseModel):
    """A key, by all but its secret."""

    id: str
    name: str
    prefix: str
    """Its first characters, to recognise it by."""
    project: str
    """Name of the project that it opens."""
    scopes: list[Scope]
    """Its scopes; `admin` implies all others."""
    replaces: str | None
    """Id of the key whose successor it is."""
    created_at: datetime
    used_at: datetime | None
    """When it was last used, to the minute."""
    expires_at: datetime | None
    """From then on it opens nothing; null is never."""
    revoked_at: datetime | None
    """When it was revoked; from then on it opens nothing."""


class NewKey(KeyRead):
    """A key that was just made."""

    key: str
    """The secret; it is shown this once."""


def shown(key: KeyRow, project: str) -> KeyRead:
    """A key as the API shows it, with its project's name."""
    return KeyRead(
        id=key.id, name=key.name, prefix=key.prefix, project=project,
        scopes=[scope for scope in SCOPES if scope in key.granted],
        replaces=key.replaces, created_at=key.created_at, used_at=key.used_at, expires_at=key.expires_at,
        revoked_at=key.revoked_at,
    )  # fmt: skip
