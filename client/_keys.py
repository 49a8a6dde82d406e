"""Keys and projects: who may do what."""

from __future__ import annotations

from client._transport import Transport, path
from client._types import Key, NewKey, Project


class Keys:
    """What `client.keys` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[Key]:
        """The keys of the own project, revoked ones too; of all projects for an admin key."""
        return [*self._transport.pages("/v1/keys", Key)]

    def create(self, name: str, *, project: str | None = None, admin: bool = False) -> NewKey:
        """Make a key; its secret is in the answer and nowhere else. Another project or an admin needs an admin."""
        body = {"name": name, "project": project, "admin": admin or None}
        given = {field: value for field, value in body.items() if value is not None}
        return self._transport.read(self._transport.request("POST", "/v1/keys", json=given, again=False), NewKey)

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
