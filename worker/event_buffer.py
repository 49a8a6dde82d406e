"""The engine's output lines, gathered so that few transactions write them."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field, TypeAdapter
from sqlalchemy.orm import Session

from retort.event import Checkpoint, Event, Progress
from service.claims import service
from service.claims.repository import Claim
from service.claims.service import Directive
from worker import metrics

EVENT_SECONDS = 0.2
"""Seconds by which an event may be written late."""
PROGRESS_SECONDS = 1.0
"""Least seconds between two writes of progress."""

LINE: TypeAdapter[Event | Progress | Checkpoint] = TypeAdapter(
    Annotated[Event | Progress | Checkpoint, Field(discriminator="line")]
)


class EventBuffer:
    """Holds events and progress until they are written; what could not be written waits for the next time."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        """The engine's reason why it cannot go on. It becomes the text of the job's last event, not one more event."""
        self._events: list[Event] = []
        self._progress: Progress | None = None
        self._phase = "preparing"
        self._next_events_at = 0.0
        self._next_progress_at = 0.0

    def add(self, line: bytes) -> Checkpoint | None:
        """Take in a line; returns its checkpoint if it announces one.

        Raises pydantic's ValidationError when it is not a line of `retort.event`.
        """
        if not line.endswith(b"\n"):
            return None  # the engine was killed within the line
        record = LINE.validate_json(line)
        self._phase = record.phase
        if isinstance(record, Progress):
            self._progress = record
            metrics.count_steps(record)
        elif isinstance(record, Event) and record.kind == "failed":
            self.refusal = record.text
        elif isinstance(record, Event):
            self._events.append(record)
        return record if isinstance(record, Checkpoint) else None

    def due(self) -> bool:
        """Whether something should be written now."""
        now = time.monotonic()
        events_due = bool(self._events) and now >= self._next_events_at
        return events_due or (self._progress is not None and now >= self._next_progress_at)

    def write(self, session: Session, claim: Claim) -> Directive:
        """Write all that is held; call `clear` once that is committed. Raises LostLease."""
        return service.record(session, claim, self._events, self._progress, self._phase)

    def clear(self) -> None:
        """Drop what was written."""
        now = time.monotonic()
        metrics.count_events(len(self._events))
        self._events = []
        self._next_events_at = now + EVENT_SECONDS
        if self._progress is not None:
            self._progress, self._next_progress_at = None, now + PROGRESS_SECONDS

    def postpone(self, seconds: float) -> None:
        """Hold everything that many seconds longer."""
        self._next_events_at = self._next_progress_at = time.monotonic() + seconds
