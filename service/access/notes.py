"""A note of a request that would change something, from when its key is looked at until it is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.redaction import without_secrets

if TYPE_CHECKING:  # workers forget old entries, and have no use for HTTP
    from starlette.requests import Request

CHANGING = frozenset({"POST", "PATCH", "DELETE"})
"""Not PUT, which sends parts of an upload: its beginning and end are noted."""
READING = "jobs:read"
"""A request that needs no more than this scope changes nothing, whatever its method."""
LONGEST = 100
"""Characters of a part of an address that are kept."""


@dataclass
class Note:
    """The entry of one request in the audit log, before it is written."""

    method: str = ""
    route: str = ""
    request_id: str = ""
    success: int = 200
    """The status of its endpoint when all goes well."""
    about: dict[str, str] = field(default_factory=dict)
    project_id: str | None = None
    key_id: str | None = None
    written: int | None = None
    """The status that was written down already, in the transaction of the change."""

    def add(self, **about: str) -> None:
        """Also name the things that the request made."""
        self.about |= about


def take_note(request: Request, scopes: Sequence[str]) -> Note:
    """A note of the request, kept where the edge finds it; one that nobody keeps when the request only reads."""
    if request.method not in CHANGING or list(scopes) == [READING]:
        return Note()
    route = request.scope["route"]
    about = {name: without_secrets(str(value))[:LONGEST] for name, value in request.path_params.items()}
    note = Note(request.method, route.path, request.state.request_id, route.status_code or 200, about)
    request.state.audit = note
    return note
