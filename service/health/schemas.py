"""Health as the API shows it."""

from __future__ import annotations

from typing import Literal

from service.schemas import ResponseModel


class Health(ResponseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(ResponseModel):
    """Whether the service can work."""

    status: Literal["ok", "degraded"]
    """Degraded: jobs are taken, but start later, since the broker cannot be reached."""
    database: Literal["ok"] = "ok"
    broker: str
    """`ok`, or `unreachable: ` and why."""
