"""HTTP for health, which needs no key."""

from __future__ import annotations

from fastapi import APIRouter

from service.errors import problems
from service.health import service
from service.health.schemas import Alive, Ready

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def read_health() -> Alive:
    """The process lives."""
    return Alive()


@router.get("/readyz", responses=problems(503))
def read_readiness() -> Ready:
    """Database and broker answer; 503 when the database does not, or is not migrated."""
    return service.ready()
