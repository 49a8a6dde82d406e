"""Reading the event log of a job: following it, and its curves."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi.sse import KEEPALIVE_COMMENT
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from service.access.caller import Caller
from service.db import reading
from service.events import repository
from service.events.followers import News, text_of, watch
from service.events.schemas import Metrics, Point, network_of, shown
from service.keys.repository import live_among

KEEPALIVE_SECONDS = 15.0
BATCH = 200
CURVES = ("metrics", "evaluation")


def metrics(session: Session, job_id: str) -> Metrics:
    """The curves of each network."""
    networks: dict[str, dict[str, list[Point]]] = {}
    for body in repository.bodies(session, job_id, CURVES):
        network = network_of(body)
        if network is None:
            continue
        for metric, value in (body.get("values") or {}).items():
            point = Point(phase=body["phase"], epoch=body.get("epoch"), step=body.get("step") or 0, value=value)
            networks.setdefault(network, {}).setdefault(metric, []).append(point)
    return Metrics(networks=networks)


async def follow(caller: Caller, job_id: str, after: int) -> AsyncIterator[bytes]:
    """The events as server-sent ones, from after that number to the job's end.

    While it waits no database connection is held, and others look for it. Ends early when the job is deleted or the
    key revoked.
    """
    news: News | None = News(b"", after, more=True)
    while news is None or not news.over:
        if news is not None and news.more:
            news = await run_in_threadpool(_replay, caller, job_id, after)
        else:
            news = await watch().wait(job_id, caller.key_id, after, KEEPALIVE_SECONDS)
        if news is None:
            yield KEEPALIVE_COMMENT
        elif news.text:
            yield news.text
            after = news.position


def _replay(caller: Caller, job_id: str, after: int) -> News:
    """The next page of the events written since."""
    with reading() as session:
        # The state first: once it is final, the event that says so was committed with it.
        head = repository.heads(session, [job_id]).get(job_id)
        if head is None or not live_among(session, [caller.key_id]):
            return News(b"", after, over=True)
        events = repository.page(session, job_id, after, BATCH)
    text = b"".join(text_of(shown(event)) for event in events)
    full = len(events) == BATCH
    return News(text, events[-1].number if events else after, more=full, over=head.ended and not full)
