"""Events as the API shows them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field

from service.jobs.models import EventRow
from service.paging import PageQuery
from service.schemas import ResponseModel


class EventQuery(PageQuery):
    """The part of a job's events to list."""

    after: int = Field(default=0, ge=0, lt=2**31)
    """Only events with higher numbers."""


class EventRead(ResponseModel):
    """One numbered event of a job."""

    number: int
    """Counts from 1, without gap or repeat."""
    at: datetime
    kind: str
    """Of the engine: phase, resolved, metrics, evaluation, report, warning, failed. Of the job's life: created,
    claimed, requeued, pause_wanted, paused, resumed, stop_wanted, cancel_wanted, cancelled, succeeded, failed."""
    attempt: int
    """The start of the job that it belongs to; 0 before the first."""
    phase: str | None
    network: str | None
    """The network that it is about; null when it is about the job."""
    epoch: int | None
    """Epochs finished in this phase."""
    step: int | None
    """Optimizer steps done in this phase."""
    values: dict[str, float] | None
    """Numbers by name."""
    text: str | None
    """A sentence for people."""
    data: dict[str, Any] | None
    """Anything larger: the resolved recipe, the report."""


class Point(ResponseModel):
    """One value of a curve."""

    phase: str
    epoch: int | None
    step: int
    value: float


class Metrics(ResponseModel):
    """The curves of a job."""

    networks: dict[str, dict[str, list[Point]]]
    """By the network's name and the metric's, in the order in which they were measured."""


BODY = ("phase", "network", "epoch", "step", "values", "text", "data")


def network_of(body: Mapping[str, Any]) -> str | None:
    """The network that an event is about; a worker of version 0.1 that outlived the migration named it `student`."""
    network: str | None = body.get("network", body.get("student"))
    return network


def shown(event: EventRow) -> EventRead:
    """An event as the API shows it."""
    body = {name: event.body.get(name) for name in BODY} | {"network": network_of(event.body)}
    return EventRead(number=event.number, at=event.at, kind=event.kind, attempt=event.attempt, **body)
