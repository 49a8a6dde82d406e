"""The watch: one look into the database, twice a second, for the news of all followers of this process.

A follower that has read all there was waits here and holds nothing of the database. The look asks how far the followed
event logs have come, in one statement, reads the new events, in another, and wakes only the followers that have news. A
follower that is further behind than a look hands out reads by itself, a page at a time: so nothing is queued for it,
and a slow reader delays no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync
from fastapi.sse import format_sse_event
from pydantic import ValidationError

from service.db import LOST, reading, why
from service.events import repository
from service.events.repository import Head
from service.events.schemas import EventRead, shown
from service.keys.repository import live_among

LOOK_SECONDS = 0.5
NEAR_EVENTS = 20
"""Number of events of a job that a look hands out."""
MOST_JOBS = 500
"""Of how many jobs a look reads the news; followers of further ones read by themselves."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class News:
    """New events for one follower."""

    text: bytes
    """Server-sent events."""
    position: int
    """Number of the last event that it knows with them."""
    more: bool = False
    """Whether there is more to be read at once."""
    over: bool = False
    """Whether nothing will follow."""


@dataclass(eq=False)
class Follower:
    """A follower that has all events that its job had a moment ago."""

    job_id: str
    key_id: str
    position: int
    news: asyncio.Future[News] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


@dataclass(frozen=True)
class EventLook:
    """An answer of the database."""

    heads: Mapping[str, Head]
    lines: Mapping[str, list[tuple[int, bytes]]]
    """Numbers and texts of the newest events of jobs, in order."""
    keys: Collection[str]
    """Those that are not revoked."""

    def news(self, follower: Follower) -> News | None:
        """The news for that follower; None when there are none."""
        head, position = self.heads.get(follower.job_id), follower.position
        if head is None or follower.key_id not in self.keys:
            return News(b"", position, over=True)
        if head.last <= position:
            return News(b"", position, over=True) if head.ended else None
        new = [(number, text) for number, text in self.lines.get(follower.job_id, ()) if number > position]
        if not new or new[0][0] != position + 1:
            return News(b"", position, more=True)
        return News(b"".join(text for _, text in new), new[-1][0], over=head.ended)


class Watch:
    """The followers of one event loop that wait, and the task that looks for them while there are any."""

    def __init__(self) -> None:
        self._waiting: set[Follower] = set()
        self._task: asyncio.Task[None] | None = None
        self._lost = False
        # A thread of its own: news do not wait until requests have left one free.
        self._thread = CapacityLimiter(1)

    async def wait(self, job_id: str, key_id: str, position: int, seconds: float) -> News | None:
        """The news after that position, once there are some; None when there are none for so long."""
        follower = Follower(job_id, key_id, position)
        self._waiting.add(follower)
        if self._task is None:
            self._task = asyncio.create_task(self._look_on(), name="watch")
        try:
            return await asyncio.wait_for(follower.news, seconds)
        except TimeoutError:
            return None
        finally:
            self._waiting.discard(follower)

    async def _look_on(self) -> None:
        try:
            while self._waiting:
                await self._look(tuple(self._waiting))
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            self._task = None

    async def _look(self, followers: Collection[Follower]) -> None:
        """Give those followers their news. While the database is lost they wait on."""
        try:
            found = await run_sync(look, followers, limiter=self._thread)
        except LOST as error:
            if not self._lost:
                log.warning("followers wait for the database, which does not answer: %s", why(error))
            self._lost = True
            return
        except Exception as error:
            for follower in followers:
                if not follower.news.done():
                    follower.news.set_exception(error)
            return
        self._lost = False
        for follower in followers:
            news = found.news(follower)
            if news is not None and not follower.news.done():
                follower.news.set_result(news)


def look(followers: Collection[Follower]) -> EventLook:
    """Ask the database what is new for them."""
    positions: dict[str, int] = {}
    for follower in followers:
        positions[follower.job_id] = min(follower.position, positions.get(follower.job_id, follower.position))
    with reading() as session:
        keys = live_among(session, {follower.key_id for follower in followers})
        # The states before the events: once a state is final, the event that says so was committed with it.
        heads = repository.heads(session, positions)
        new = {job_id: head.last - positions[job_id] for job_id, head in heads.items()}
        near = [job_id for job_id, count in new.items() if 0 < count <= NEAR_EVENTS][:MOST_JOBS]
        depth = max((new[job_id] for job_id in near), default=0)
        events = repository.newest(session, near, depth) if near else ()
        lines: dict[str, list[tuple[int, bytes]]] = {}
        for event in events:
            with suppress(ValidationError):  # its follower reads it by itself, and no other waits for it
                lines.setdefault(event.job_id, []).append((event.number, text_of(shown(event))))
    return EventLook(heads, lines, keys)


def text_of(event: EventRead) -> bytes:
    """An event as a server-sent one."""
    return format_sse_event(id=str(event.number), event=event.kind, data_str=event.model_dump_json())


def watch() -> Watch:
    """The running event loop's."""
    found = _watch.get(None)
    if found is None:
        found = Watch()
        _watch.set(found)
    return found


_watch: RunVar[Watch] = RunVar("retort_watch")
