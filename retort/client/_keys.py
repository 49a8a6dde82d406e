"""Keys, projects and the audit log: who may do what. All but the list of projects and their use needs an admin key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from retort.client._transport import Transport, path
from retort.client._types import AuditEntry, Key, NewKey, Project, Scope, Usage


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

    def limit(self, project_id: str, **limits: float | None) -> Project:
        """Set some of a project's limits: max_running, max_queued, max_stored_bytes, max_upload_bytes,
        requests_per_second, keep_jobs_days, keep_datasets_days, keep_models_days and keep_uploads_days; None is any
        number of running jobs, and the service's own limit for the others."""
        return self._transport.read(
            self._transport.request("PATCH", path("projects", project_id), json=limits), Project
        )

    def usage(self) -> Usage:
        """What the own project may use, and what it uses now."""
        return self._transport.get("/v1/usage", Usage)


class Audit:
    """What `client.audit` offers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, project_id: str | None = None, key_id: str | None = None) -> Iterator[AuditEntry]:
        """Every request that changed something or would have, newest first."""
        return self._transport.pages("/v1/audit", AuditEntry, {"project": project_id, "key": key_id})
