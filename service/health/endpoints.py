"""HTTP for health, which needs no key."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from service.errors import problems
from service.health import fleet, service
from service.health.schemas import Health, Readiness

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def read_health() -> Health:
    """The process lives."""
    return Health()


@router.get("/metrics", response_class=PlainTextResponse)
def read_metrics() -> PlainTextResponse:
    """Counts for Prometheus, in its text format, without a name or an id in them; docs/operations.md lists them."""
    return PlainTextResponse(fleet.scrape(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/readyz", responses=problems(503))
def read_readiness() -> Readiness:
    """Database and broker answer; 503 when the database does not, is not migrated, or has no room."""
    return service.ready()
