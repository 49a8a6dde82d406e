"""Keys and projects: who may do what. All but the list of projects needs an admin key."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from client._transport import Transport, path
from client._types import Key, NewKey, Project, Scope


class Keys:
    """What `client.keys` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Key]:
        """All keys, those that have ended too."""
        return [*self._transport.pages("/v1/keys", Key)]

    def create(
        self,
        name: str,
        *,
        project: str | None = None,
        scopes: Sequence[Scope] | None = None,
        expires_at: datetime | None = None,
    ) -> NewKey:
        """Make a key; its secret is in the answer and nowhere else.

        `project` is the own one by default, `scopes` all that concerns that project alone.
        """
        ends = expires_at and expires_at.astimezone().isoformat()
        body = {"name": name, "project": project, "scopes": scopes and [*scopes], "expires_at": ends}
        given = {field: value for field, value in body.items() if value is not None}
        return self._transport.read(self._transport.request("POST", "/v1/keys", json=given, again=False), NewKey)

    def rotate(self, key_id: str, *, grace_seconds: int | None = None) -> NewKey:
        """Make a key's successor; the old one goes on for that long, a day by default."""
        given = {} if grace_seconds is None else {"grace_seconds": grace_seconds}
        answer = self._transport.request("POST", f"{path('keys', key_id)}/rotate", params=given, again=False)
        return self._transport.read(answer, NewKey)

    def revoke(self, key_id: str) -> None:
        """End a key at once."""
        self._transport.request("DELETE", path("keys", key_id), again=False)


class Projects:
    """What `client.projects` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Project]:
        """The own project; all for an admin key."""
        return [*self._transport.pages("/v1/projects", Project)]

    def create(self, name: str) -> Project:
        response = self._transport.request("POST", "/v1/projects", json={"name": name}, again=False)
        return self._transport.read(response, Project)

    def limit(self, project_id: str, max_running: int | None) -> Project:
        """Set how many of a project's jobs run at once at most; None sets no limit. Needs an admin key."""
        body = {"max_running": max_running}
        return self._transport.read(self._transport.request("PATCH", path("projects", project_id), json=body), Project)
