"""Removes what is older than its project keeps it, of what no job uses. Uploads have times of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from service.access.notes import Note
from service.audit import repository as audit
from service.datasets.models import DatasetRow
from service.datasets.products import PRODUCTS as DATASETS
from service.db import read_now, reading, release_pages, transaction
from service.jobs import repository as jobs
from service.jobs.models import JobRow
from service.jobs.uses import users
from service.models.models import ModelRow
from service.models.products import PRODUCTS as MODELS
from service.retention import repository
from service.retention.repository import Position, Thing
from service.usage.service import DAY_SECONDS, limits_of

THINGS_A_STEP = 16
"""Number of things that one transaction removes: other writers wait meanwhile, and a job may have many events."""

THINGS_A_SWEEP = 1000
"""After how many a worker looks for jobs again; the next sweep goes on."""
RETENTION = "retention"
"""In the audit log, in the place of a request's method."""


@dataclass(frozen=True)
class RetentionRule:
    """A kind of things that are kept for a while."""

    table: type[Thing]
    days: str
    """Names the term among a project's limits."""
    route: str
    """Its address, with what stands there for its id."""
    remove: Callable[[Session, Any], None]
    """Deletes a thing; its bytes are left to the sweep of blobs."""
    recent_jobs: bool
    """Whether a job that ended within the term uses it as well: the term begins with the end of the last one."""


KINDS: Mapping[str, RetentionRule] = {
    "job_id": RetentionRule(JobRow, "jobs_retention_days", "/v1/jobs/{job_id}", jobs.remove, recent_jobs=False),
    "dataset_id": RetentionRule(
        DatasetRow, "datasets_retention_days", "/v1/datasets/{dataset_id}", DATASETS.forget, recent_jobs=True
    ),
    "model_id": RetentionRule(
        ModelRow, "models_retention_days", "/v1/models/{model_id}", MODELS.forget, recent_jobs=True
    ),
}
"""By the name of their ids. Jobs first: what they used is free then."""


def sweep_old() -> int:
    """Delete ended jobs, data sets and models that are older than their project keeps them, but for what a job uses;
    gives how many. Each is an entry in the audit log. Where there are very many, some are left to the next sweep."""
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
    kind, removed = KINDS[name], 0
    with transaction() as session:
        before = read_now(session) - days * DAY_SECONDS
        found = repository.lock_some(session, kind.table, project_id, before, after, THINGS_A_STEP)
        ids = {old.thing.id for old in found}
        used = users(session, project_id, ids, since=before if kind.recent_jobs else None) if ids else {}
        for thing, _ in found:
            if thing.id not in used:
                kind.remove(session, thing)
                note = Note(RETENTION, kind.route, about={name: thing.id}, project_id=project_id)
                audit.add(session, note, 204)
                removed += 1
    return removed, (found[-1].used_at, found[-1].thing.id) if len(found) == THINGS_A_STEP else None
