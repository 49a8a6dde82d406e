"""All SQL about things that are older than they are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.orm import Session

from service.datasets.models import DatasetRow
from service.jobs.models import TERMINAL, JobRow
from service.models.models import ModelRow
from service.projects.models import ProjectRow

Thing = JobRow | DatasetRow | ModelRow
Position = tuple[float, str]
"""When a thing was used last, and its id."""


class ThingAge(NamedTuple):
    """A thing that is older than it is kept."""

    thing: Thing
    used_at: float
    """The time of its last use: the end of a job, the making of the last job that uses the thing, or its own making."""


def projects(session: Session) -> Sequence[ProjectRow]:
    """All of them."""
    return session.scalars(select(ProjectRow).order_by(ProjectRow.id)).all()


def lock_some(
    session: Session, table: type[Thing], project_id: str, before: float, after: Position, limit: int
) -> Sequence[ThingAge]:
    """Things of that project that nobody used since a time, longest ago first, from a position on; nobody else changes
    them until the transaction ends. Those that somebody changes just now are left out."""
    used_at = _used_at(table)
    found = select(table, used_at).where(table.project_id == project_id, used_at <= before)
    if table is JobRow:
        found = found.where(JobRow.state.in_(TERMINAL))
    page = found.where(tuple_(used_at, table.id) > after).order_by(used_at, table.id).limit(limit)
    rows: Iterable[Any] = session.execute(page.with_for_update(of=table, skip_locked=True))
    return [ThingAge(thing, since) for thing, since in rows]


def _used_at(table: type[Thing]) -> ColumnElement[Any]:
    if issubclass(table, JobRow):
        return JobRow.__table__.c.ended_at  # alone, as the index has it
    return func.coalesce(table.used_at, table.created_at)
