"""Keys, projects and the audit log. All but the list of projects and their use needs an admin key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from retort.client._transport import Transport, path
from retort.client._types import AuditEntryInfo, KeyInfo, NewKeyInfo, ProjectInfo, Scope, UsageInfo


class Keys:
    """`client.keys`: the keys of the service."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[KeyInfo]:
        """All keys, those that have ended too."""
        return [*self._transport.pages("/v1/keys", KeyInfo)]

    def create(
        self,
        name: str,
        *,
        project: str | None = None,
        scopes: Sequence[Scope] | None = None,
        expires_at: datetime | None = None,
    ) -> NewKeyInfo:
        """Make a key; its secret is in the answer and nowhere else.

        `project` is that of the client's key by default, `scopes` all but `admin`.
        """
        ends = expires_at and expires_at.astimezone().isoformat()
        body = {"name": name, "project": project, "scopes": scopes and [*scopes], "expires_at": ends}
        given = {field: value for field, value in body.items() if value is not None}
        return self._transport.read(self._transport.request("POST", "/v1/keys", json=given, retry=False), NewKeyInfo)

    def rotate(self, key_id: str, *, grace_seconds: int | None = None) -> NewKeyInfo:
        """Make a key's successor; the old key stays valid for `grace_seconds`, a day by default."""
        given = {} if grace_seconds is None else {"grace_seconds": grace_seconds}
        answer = self._transport.request("POST", f"{path('keys', key_id)}/rotate", params=given, retry=False)
        return self._transport.read(answer, NewKeyInfo)

    def revoke(self, key_id: str) -> None:
        """End a key at once."""
        self._transport.request("DELETE", path("keys", key_id), retry=False)


class Projects:
    """`client.projects`: the projects of the service, their limits and their use."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> list[ProjectInfo]:
        """The key's project; all projects for an admin key."""
        return [*self._transport.pages("/v1/projects", ProjectInfo)]

    def create(self, name: str) -> ProjectInfo:
        response = self._transport.request("POST", "/v1/projects", json={"name": name}, retry=False)
        return self._transport.read(response, ProjectInfo)

    def limit(self, project_id: str, **limits: float | None) -> ProjectInfo:
        """Set some of a project's limits: max_running, max_queued, max_stored_bytes, max_upload_bytes,
        requests_per_second, jobs_retention_days, datasets_retention_days, models_retention_days and
        uploads_retention_days. None removes the limit on running jobs; for the others the service's own holds."""
        return self._transport.read(
            self._transport.request("PATCH", path("projects", project_id), json=limits), ProjectInfo
        )

    def usage(self) -> UsageInfo:
        """Limits and use of the key's project."""
        return self._transport.get("/v1/usage", UsageInfo)


class Audit:
    """`client.audit`: the audit log."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, project_id: str | None = None, key_id: str | None = None) -> Iterator[AuditEntryInfo]:
        """Requests that changed something or were refused, and removals by retention, newest first."""
        return self._transport.pages("/v1/audit", AuditEntryInfo, {"project": project_id, "key": key_id})
