"""Why a queued job waits: its turn among all jobs and the live workers, from a snapshot at most a second old."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from service.jobs import repository
from service.jobs.repository import Queued
from service.jobs.schemas import Waiting
from service.settings import get_settings
from service.workers.repository import count_alive

FRESH_SECONDS = 1.0


@dataclass(frozen=True)
class Snapshot:
    """The queue as it stood a moment ago."""

    taken_at: float
    database: str
    positions: dict[str, int]
    wait_seconds: dict[str, float]
    workers: int


_taken: Snapshot | None = None
_taking = threading.Lock()


def explain(session: Session, job_id: str) -> Waiting:
    """The job's turn, and one sentence why it has not come."""
    snapshot = _snapshot(session)
    # A job that was queued after the snapshot stands behind all that it holds.
    position = snapshot.positions.get(job_id, len(snapshot.positions) + 1)
    return Waiting(position=position, workers=snapshot.workers, reason=_reason(snapshot, job_id, position))


def turns(jobs: Sequence[Queued]) -> dict[str, int]:
    """Each job's place, 1 first, when projects take turns as workers claim.

    The project that was served longest ago comes first; among projects that never were, the better job's.
    """
    rounds: dict[int, list[Queued]] = defaultdict(list)
    seen: Counter[str] = Counter()
    for job in jobs:
        seen[job.project_id] += 1
        rounds[seen[job.project_id]].append(job)
    first = sorted(rounds[1], key=lambda job: job.served_at)
    rank = {job.project_id: i for i, job in enumerate(first)}
    ordered = [job for number in sorted(rounds) for job in sorted(rounds[number], key=lambda job: rank[job.project_id])]
    return {job.id: place for place, job in enumerate(ordered, start=1)}


def _snapshot(session: Session) -> Snapshot:
    global _taken
    settings = get_settings()
    with _taking:
        known = _taken
        if known and known.database == settings.database and time.monotonic() - known.taken_at < FRESH_SECONDS:
            return known
        taken_at = time.monotonic()
        jobs = repository.queue(session)
        workers = count_alive(session, settings.lease_seconds)
        waits = {job.id: job.wait_seconds for job in jobs if job.wait_seconds > 0}
        _taken = Snapshot(taken_at, settings.database, turns(jobs), waits, workers)
        return _taken


def _reason(snapshot: Snapshot, job_id: str, position: int) -> str:
    if snapshot.workers == 0:
        return "no worker is alive; the job starts once there is one"
    if job_id in snapshot.wait_seconds:
        return (
            f"the last attempt failed through the machine; the next one starts in {snapshot.wait_seconds[job_id]:.0f} s"
        )
    if position > 1:
        return f"{position - 1} {'job is' if position == 2 else 'jobs are'} before it"
    return "it is next; a worker takes it once one is free"
