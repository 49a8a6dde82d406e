"""The audit log as the API shows it."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from service.audit.models import AuditRow
from service.paging import PageQuery
from service.schemas import ResponseModel


class AuditQuery(PageQuery):
    """Filters of the list of entries."""

    project: str | None = Field(default=None, max_length=100)
    """Only those by keys of the project with this id."""
    key: str | None = Field(default=None, max_length=100)
    """Only those by the key with this id."""


class AuditRead(ResponseModel):
    """One request that changed something, or would have; or the removal of what a project keeps no longer."""

    id: str
    at: datetime
    project_id: str | None
    """Of the key; null for who showed none that is live. Of the thing, for a removal."""
    key_id: str | None
    method: str
    """Of the request; `retention` for a removal, which no request asked for."""
    route: str
    """The address, with its parameters by name."""
    about: dict[str, str]
    """Ids and names in the address, and of what was made."""
    status: int
    """The HTTP status that it was answered with; 400 and above changed nothing."""
    request_id: str
    """Names the request in the service's log; empty for a removal."""


def shown(entry: AuditRow) -> AuditRead:
    """An entry as the API shows it."""
    return AuditRead.model_validate(entry, from_attributes=True)
