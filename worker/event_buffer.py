"""The engine's output lines, gathered so that few transactions write them."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from retort.event import Checkpoint, Event, Progress
from retort.printable import printable
from retort.spec import wrong_at
from retort.storable import most_values
from service.claims import service
from service.claims.records import InvalidRecord
from service.claims.repository import Claim
from service.claims.service import Directive
from worker import metrics

EVENT_SECONDS = 0.2
"""Seconds by which an event may be written late."""
PROGRESS_SECONDS = 1.0
"""Least seconds between two writes of progress."""

EVENTS_A_WRITE = 2000
"""Events that one transaction writes: it locks the job's row, and a lease is renewed in between."""
HELD_BYTES = 16 * 2**20
"""Bytes of events that wait to be written, from which on no more are read."""
MOST_BYTES = 2**30
"""Bytes of the events of one attempt: a hundred times those of the longest trainings. All of them are stored."""
MOST_VALUES = 2_000_000
"""Values of one line; each takes memory. A report on 100,000 classes has half a million."""
LONGEST_QUOTE = 1000
"""Characters of an engine's own words in a sentence."""
OF_ANOTHER_PROTOCOL = {"union_tag_invalid", "union_tag_not_found", "missing", "extra_forbidden", "literal_error"}
"""Errors of a line that no engine of this version writes, whatever it has read."""

LINE: TypeAdapter[Event | Progress | Checkpoint] = TypeAdapter(
    Annotated[Event | Progress | Checkpoint, Field(discriminator="line")]
)


class EventBuffer:
    """Holds events and progress until they are written; what could not be written waits for the next time."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        """The engine's reason why it cannot go on. It becomes the text of the job's last event, not one more event."""
        self._events: list[Event] = []
        self._held = 0
        """Bytes of the events that wait."""
        self._bytes = 0
        """Bytes of all events so far."""
        self._progress: Progress | None = None
        self._phase = "preparing"
        self._next_events_at = 0.0
        self._next_progress_at = 0.0

    def add(self, line: bytes) -> Checkpoint | None:
        """Take in a line; returns its checkpoint if it announces one.

        Raises InvalidRecord when it says what cannot be, and pydantic's ValidationError when it is not a line of
        `retort.event` at all.
        """
        if not line.endswith(b"\n"):
            return None  # the engine was killed within the line
        record = read_record(line)
        self._phase = record.phase
        if isinstance(record, Progress):
            self._progress = record
            metrics.count_steps(record)
        elif isinstance(record, Event) and record.kind == "failed":
            self.refusal = record.text
        elif isinstance(record, Event):
            self._events.append(record)
            self._held += len(line)
            self._bytes += len(line)
            if self._bytes > MOST_BYTES:
                raise InvalidRecord(f"the engine reported more than {MOST_BYTES:,} bytes of events in one attempt")
            if record.kind == "phase":
                # Numbers of the phase before are none of this one.
                self._progress = Progress(phase=record.phase)
        return record if isinstance(record, Checkpoint) else None

    def full(self) -> bool:
        """Whether so much waits to be written that nothing more should be read."""
        return self._held >= HELD_BYTES

    def empty(self) -> bool:
        """Whether nothing waits to be written."""
        return not self._events and self._progress is None

    def due(self) -> bool:
        """Whether something should be written now."""
        now = time.monotonic()
        events_due = bool(self._events) and now >= self._next_events_at
        return events_due or (self._progress is not None and now >= self._next_progress_at)

    def write(self, session: Session, claim: Claim) -> Directive:
        """Write what is held, of very many events the first; call `clear` once that is committed.

        Raises LostLease and InvalidRecord.
        """
        return service.record(session, claim, self._events[:EVENTS_A_WRITE], self._progress, self._phase)

    def clear(self) -> None:
        """Drop what was written."""
        now = time.monotonic()
        metrics.count_events(min(len(self._events), EVENTS_A_WRITE))
        self._events = self._events[EVENTS_A_WRITE:]
        self._next_events_at = now if self._events else now + EVENT_SECONDS
        if not self._events:
            self._held = 0
        if self._progress is not None:
            self._progress, self._next_progress_at = None, now + PROGRESS_SECONDS

    def postpone(self, seconds: float) -> None:
        """Hold everything that many seconds longer."""
        self._next_events_at = self._next_progress_at = time.monotonic() + seconds


def read_record(line: bytes) -> Event | Progress | Checkpoint:
    """The record of a line. Raises as EventBuffer.add."""
    if most_values(line) > MOST_VALUES:
        raise InvalidRecord(f"a record of the engine holds more than {MOST_VALUES:,} values")
    try:
        return LINE.validate_json(line)
    except ValidationError as error:
        kind = error.errors(include_url=False, include_input=False)[0]["type"]
        if kind in OF_ANOTHER_PROTOCOL or not line.startswith(b"{"):
            raise
        raise InvalidRecord(plain(wrong_at("engine's record", error))) from None


def plain(text: str) -> str:
    """A text of an engine's as a sentence may repeat it: its beginning, in one line."""
    return printable(text[:LONGEST_QUOTE])
