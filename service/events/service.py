"""What one can do with the diary: read it, follow it, draw its curves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.db import reading
from service.events import repository
from service.events.schemas import EventRead, Metrics, Point, shown
from service.jobs.models import TERMINAL
from service.jobs.repository import find
from service.keys.repository import is_live
from service.keys.service import Caller

LOOK_SECONDS = 0.5
"""How often a follower looks for news."""
KEEPALIVE_SECONDS = 15.0
BATCH = 200
CURVES = ("metrics", "evaluation")


def metrics(session: Session, job_id: str) -> Metrics:
    """The curves of each network."""
    students: dict[str, dict[str, list[Point]]] = {}
    for body in repository.bodies(session, job_id, CURVES):
        student = body.get("student")
        if student is None:
            continue
        for metric, value in (body.get("values") or {}).items():
            point = Point(phase=body["phase"], epoch=body.get("epoch"), step=body.get("step") or 0, value=value)
            students.setdefault(student, {}).setdefault(metric, []).append(point)
    return Metrics(students=students)


async def follow(caller: Caller, job_id: str, after: int) -> AsyncIterator[bytes]:
    """The diary as server-sent events, from after that number to the job's end.

    While it waits no database connection is held. Ends early when the job is deleted or the key revoked.
    """
    spoke_at = time.monotonic()
    over = False
    while not over:
        events, over = await run_in_threadpool(_news, caller, job_id, after)
        for event in events:
            yield format_sse_event(id=str(event.number), event=event.kind, data_str=event.model_dump_json())
            after = event.number
        if events:
            spoke_at = time.monotonic()
        elif not over and time.monotonic() - spoke_at >= KEEPALIVE_SECONDS:
            yield KEEPALIVE_COMMENT
            spoke_at = time.monotonic()
        if not over and len(events) < BATCH:
            await asyncio.sleep(LOOK_SECONDS)


def _news(caller: Caller, job_id: str, after: int) -> tuple[list[EventRead], bool]:
    """What was written since, and whether nothing will follow."""
    with reading() as session:
        # The state first: once it is final, the event that says so was committed with it.
        job = find(session, caller.project_id, job_id)
        if job is None or not is_live(session, caller.key_id):
            return [], True
        events = [shown(event) for event in repository.page(session, job_id, after, BATCH)]
    return events, job.state in TERMINAL and len(events) < BATCH
