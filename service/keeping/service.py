"""Removes what is older than its project keeps it, of what no job uses. Uploads have times of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from service.datasets import repository as datasets
from service.datasets.models import Dataset
from service.db import read_now, reading, release_pages, transaction
from service.jobs import repository as jobs
from service.jobs.models import Job
from service.jobs.uses import users
from service.keeping import repository
from service.keeping.repository import Position, Thing
from service.models import repository as models
from service.models.models import Model
from service.usage.service import DAY_SECONDS, limits_of

THINGS_A_STEP = 16
"""How many of them one transaction removes: other writers wait meanwhile, and a job may have a long diary."""

THINGS_A_SWEEP = 1000
"""After how many a worker looks for jobs again; the next sweep goes on."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kind:
    """A kind of things that are kept for a while."""

    table: type[Thing]
    days: str
    """Names the term among a project's limits."""
    remove: Callable[[Session, Any], None]
    """Deletes a thing; its bytes are left to the sweep of blobs."""
    recent_jobs: bool
    """Whether a job that ended within the term uses it as well: the term begins with the end of the last one."""


KINDS: Mapping[str, Kind] = {
    "job": Kind(Job, "keep_jobs_days", jobs.remove, recent_jobs=False),
    "data set": Kind(Dataset, "keep_datasets_days", datasets.forget, recent_jobs=True),
    "model": Kind(Model, "keep_models_days", models.forget, recent_jobs=True),
}
"""By their names for people. Jobs first: what they used is free then."""


def sweep_old() -> int:
    """Delete ended jobs, data sets and models that are older than their project keeps them, but for what a job uses;
    gives how many. Each is a line in the log. Where there are very many, some are left to the next sweep."""
    with reading() as session:
        terms = [
            (project.id, name, days)
            for project in repository.projects(session)
            for name, kind in KINDS.items()
            if (days := getattr(limits_of(project), kind.days)) is not None
        ]
    count = 0
    for project_id, name, days in terms:
        after: Position | None = (float("-inf"), "")
        while after is not None and count < THINGS_A_SWEEP:
            removed, after = _step(project_id, name, days, after)
            count += removed
    if count:
        release_pages()
    return count


def _step(project_id: str, name: str, days: float, after: Position) -> tuple[int, Position | None]:
    """Remove some, from a position on; gives how many, and where to go on unless these were all."""
    kind, removed = KINDS[name], []
    with transaction() as session:
        now = read_now(session)
        before = now - days * DAY_SECONDS
        found = repository.lock_some(session, kind.table, project_id, before, after, THINGS_A_STEP)
        ids = {old.thing.id for old in found}
        used = users(session, project_id, ids, since=before if kind.recent_jobs else None) if ids else {}
        for thing, used_at in found:
            if thing.id not in used:
                kind.remove(session, thing)
                removed.append((thing.id, (now - used_at) / DAY_SECONDS))
    for thing_id, age in removed:
        said = "%s %s was removed after %.1f days: project %s keeps such things for %g"
        log.info(said, name, thing_id, age, project_id, days)
    return len(removed), (found[-1].used_at, found[-1].thing.id) if len(found) == THINGS_A_STEP else None
