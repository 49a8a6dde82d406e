"""HTTP for events: as a list, as server-sent events, as curves."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.sse import EventSourceResponse

from service.access.caller import Caller
from service.access.dependency import needs
from service.db import reading
from service.errors import problems
from service.events import repository, service
from service.events.schemas import EventQuery, EventRead, Metrics, shown
from service.jobs.service import check_exists
from service.paging import Page, cut, decode_number

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["events"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of the events; with `Accept: text/event-stream` all of them, as they come, to the end",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    **problems(404, 422),
}


@router.get("/events", response_model=Page[EventRead], responses=STREAM)
def list_events(
    request: Request,
    caller: Annotated[Caller, needs("jobs:read")],
    job_id: str,
    query: Annotated[EventQuery, Query()],
    last_event_id: Annotated[int | None, Header(alias="Last-Event-ID", ge=0, lt=2**31)] = None,
) -> Page[EventRead] | Response:
    """The job's events. As server-sent events they go on after `Last-Event-ID`, or after `after`."""
    check_exists(caller, job_id)
    if "text/event-stream" in request.headers.get("accept", ""):
        begin = query.after if last_event_id is None else last_event_id
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # proxies must not collect it
        return EventSourceResponse(service.follow(caller, job_id, begin), headers=headers)
    after = max(query.after, decode_number(query.cursor) or 0)
    with reading() as session:
        rows = repository.page(session, job_id, after, query.limit + 1)
    events, cursor = cut(rows, query.limit, lambda event: event.number)
    return Page(items=[shown(event) for event in events], next_cursor=cursor)


@router.get("/metrics", responses=problems(404))
def read_metrics(caller: Annotated[Caller, needs("jobs:read")], job_id: str) -> Metrics:
    """The curves of each network."""
    check_exists(caller, job_id)
    with reading() as session:
        return service.metrics(session, job_id)
