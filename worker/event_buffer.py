"""What the engine said, gathered so that it can be written down in few transactions."""

from __future__ import annotations

import time
from typing import Annotated

from pydantic import Field, TypeAdapter
from sqlalchemy.orm import Session

from retort.event import Checkpoint, Event, Progress
from service.claims import service
from service.claims.repository import Claim
from service.claims.service import Directive as Order
from worker import metrics as meters

EVENT_SECONDS = 0.2
"""How late an event may be written."""
PROGRESS_SECONDS = 1.0
"""How often progress is written at most."""

LINE: TypeAdapter[Event | Progress | Checkpoint] = TypeAdapter(
    Annotated[Event | Progress | Checkpoint, Field(discriminator="line")]
)


class EventBuffer:
    """Holds what was heard until it is written; what could not be written is kept for the next time."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        """The engine's sentence why it cannot go on. The diary gets it as the job's end, not as one more event."""
        self._events: list[Event] = []
        self._progress: Progress | None = None
        self._phase = "preparing"
        self._next_events_at = 0.0
        self._next_progress_at = 0.0

    def hear(self, line: bytes) -> Checkpoint | None:
        """Take in a line; gives the checkpoint that it tells of, if it does.

        Raises pydantic's ValidationError when the engine does not keep to the protocol.
        """
        if not line.endswith(b"\n"):
            return None  # it was killed in the middle of it
        said = LINE.validate_json(line)
        self._phase = said.phase
        if isinstance(said, Progress):
            self._progress = said
            meters.progressed(said)
        elif isinstance(said, Event) and said.kind == "failed":
            self.refusal = said.text
        elif isinstance(said, Event):
            self._events.append(said)
        return said if isinstance(said, Checkpoint) else None

    def due(self) -> bool:
        """Whether something should be written now."""
        now = time.monotonic()
        events_due = bool(self._events) and now >= self._next_events_at
        return events_due or (self._progress is not None and now >= self._next_progress_at)

    def write(self, session: Session, claim: Claim) -> Order:
        """Write all that was heard; call `written` once that is committed. Raises LostLease."""
        return service.record(session, claim, self._events, self._progress, self._phase)

    def written(self) -> None:
        """Forget what was written."""
        now = time.monotonic()
        meters.wrote(len(self._events))
        self._events = []
        self._next_events_at = now + EVENT_SECONDS
        if self._progress is not None:
            self._progress, self._next_progress_at = None, now + PROGRESS_SECONDS

    def put_off(self, seconds: float) -> None:
        """Keep it all, and try again later."""
        self._next_events_at = self._next_progress_at = time.monotonic() + seconds
