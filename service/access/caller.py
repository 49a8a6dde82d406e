"""The caller of a request, as its key says."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.access.notes import Note
from service.access.scopes import PROJECT_SCOPES, Scope


@dataclass(frozen=True)
class Caller:
    """The caller of a request."""

    key_id: str
    project_id: str
    admin: bool
    scopes: frozenset[Scope] = frozenset(PROJECT_SCOPES)
    """Those besides `admin`."""
    note: Note = field(default_factory=Note, compare=False)
    """The note of the request for the audit log."""

    def may(self, scope: str) -> bool:
        """Whether the key has that scope."""
        return self.admin or scope in self.scopes

    @property
    def sees(self) -> str | None:
        """The project that it sees in the list of projects; None is all of them."""
        return None if self.admin else self.project_id
