"""The reason that a queued job waits: its turn among all jobs and the live workers, from a snapshot at most a second
old."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from sqlalchemy.orm import Session

from service.jobs import repository
from service.jobs.models import JobRow
from service.jobs.repository import Queue
from service.jobs.schemas import QueuePlace
from service.settings import get_settings
from service.workers.models import WorkerRow
from service.workers.repository import alive

FRESH_SECONDS = 1.0


@dataclass(frozen=True)
class QueueSnapshot:
    """The queue as it stood a moment ago."""

    taken_at: float
    database: str
    positions: dict[str, int]
    wait_seconds: Mapping[str, float]
    full: dict[str, int]
    """Projects that run as many jobs as they may, with that number."""
    workers: Sequence[WorkerRow]


_taken: QueueSnapshot | None = None
_taking = threading.Lock()


def explain(session: Session, job: JobRow) -> QueuePlace:
    """The job's turn, and one sentence why it has not come."""
    snapshot = _snapshot(session)
    # A job that was queued after the snapshot stands behind all that it holds.
    position = snapshot.positions.get(job.id, len(snapshot.positions) + 1)
    busy = sum(worker.job_id is not None for worker in snapshot.workers)
    reason = _reason(snapshot, job, position, busy)
    return QueuePlace(position=position, workers=len(snapshot.workers), busy=busy, reason=reason)


def turns(queue: Queue) -> dict[str, int]:
    """Each job's place, 1 first, when projects take turns as workers claim.

    The project that was served longest ago comes first; among projects that never were, the better job's.
    """
    rounds: dict[str, list[str]] = {}
    for job_id, project_id in queue.jobs:
        rounds.setdefault(project_id, []).append(job_id)
    projects = sorted(rounds, key=lambda project_id: queue.served_at[project_id])
    ordered = chain.from_iterable(zip_longest(*(rounds[project_id] for project_id in projects)))
    return {job_id: place for place, job_id in enumerate(filter(None, ordered), start=1)}


def _snapshot(session: Session) -> QueueSnapshot:
    global _taken
    settings = get_settings()
    with _taking:
        known = _taken
        if known and known.database == settings.database and time.monotonic() - known.taken_at < FRESH_SECONDS:
            return known
        taken_at = time.monotonic()
        queue = repository.queue(session)
        workers = alive(session, settings.lease_seconds)
        full = repository.full_projects(session)
        _taken = QueueSnapshot(taken_at, settings.database, turns(queue), queue.wait_seconds, full, workers)
        return _taken


def _reason(snapshot: QueueSnapshot, job: JobRow, position: int, busy: int) -> str:
    workers = len(snapshot.workers)
    if workers == 0:
        return "no worker is alive; the job starts once there is one"
    if missing := _missing(job, snapshot.workers):
        return missing
    if job.id in snapshot.wait_seconds:
        seconds = snapshot.wait_seconds[job.id]
        return f"the last attempt failed through the machine; the next one starts in {seconds:.0f} s"
    if job.project_id in snapshot.full:
        most = snapshot.full[job.project_id]
        return f"its project runs {most} {'job' if most == 1 else 'jobs'}, which is as many as it may"
    if position > 1:
        before = f"{position - 1} {'job is' if position == 2 else 'jobs are'} before it"
        return f"{before}; {busy} of {workers} {'worker is' if workers == 1 else 'workers are'} busy"
    if busy < workers:
        return "it is next; a worker takes it in a moment"
    return f"it is next; {'the one worker is' if workers == 1 else f'all {workers} workers are'} busy"


def _missing(job: JobRow, workers: Sequence[WorkerRow]) -> str | None:
    """One sentence about a need that no live worker meets; None when one meets them all."""
    able = [worker for worker in workers if worker.gpu is not None or not job.needs_gpu]
    if not able:
        return "it needs a GPU, and no live worker has one"
    roomy = [worker for worker in able if worker.memory_bytes >= job.needs_memory_bytes]
    if not roomy:
        most = max(worker.memory_bytes for worker in able)
        return f"it needs {_gib(job.needs_memory_bytes)} of memory; the live workers have {_gib(most)} at most"
    if all(worker.disk_bytes < job.needs_disk_bytes for worker in roomy):
        most = max(worker.disk_bytes for worker in roomy)
        return f"it needs {_gib(job.needs_disk_bytes)} of free disk; the live workers have {_gib(most)} at most"
    return None


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
