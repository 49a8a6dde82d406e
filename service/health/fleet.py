"""Jobs, workers, database and broker as numbers, for Prometheus; read at a scrape, once a second at most."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import case, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service import metrics, wake_up
from service.db import database_now, is_near, is_over, reading, why
from service.jobs.models import JobRow, State
from service.jobs.rules import longest_lease
from service.settings import Settings, get_settings
from service.workers.models import WorkerRow

FRESH_SECONDS = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """Counts of jobs and workers in the database."""

    jobs: dict[State, int]
    left_behind: int
    """Running jobs whose lease is over."""
    oldest_seconds: float
    """Since the oldest queued job was made or its pause after a failed attempt ended; 0 when none waits."""
    workers: dict[bool, int]
    """Live workers, by whether they have a job."""


@dataclass(frozen=True)
class FleetSnapshot:
    """The service as it stood a moment ago."""

    of: Settings
    taken_at: float
    counts: Counts | None
    """None: the database did not answer, or was not migrated."""
    broker: bool


class Fleet(Collector):
    """Takes a snapshot when it is asked and the last one is old. A scrape meanwhile waits for it and gets the same."""

    def __init__(self) -> None:
        self._taken: FleetSnapshot | None = None
        self._taking = threading.Lock()

    def describe(self) -> list[Metric]:
        """Nothing: registering must ask neither database nor broker."""
        return []

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot(get_settings())
        yield from metrics_of(snapshot.counts, broker=snapshot.broker)

    def _snapshot(self, settings: Settings) -> FleetSnapshot:
        with self._taking:
            known = self._taken
            if known and known.of is settings and time.monotonic() - known.taken_at < FRESH_SECONDS:
                return known
            counts, broker = read_counts(settings.lease_seconds), wake_up.reachable() is None
            self._taken = FleetSnapshot(settings, time.monotonic(), counts, broker)
            return self._taken


def metrics_of(counts: Counts | None, *, broker: bool) -> Iterator[Metric]:
    """A snapshot as metrics."""
    yield gauge("retort_database_up", "1 when the database answers and has its tables.", counts is not None)
    yield gauge("retort_broker_up", "1 when the broker answers within a second.", broker)
    if counts is not None:
        yield from of_counts(counts)


def gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    """One number without labels."""
    return GaugeMetricFamily(name, text, value=float(value))


def of_counts(counts: Counts) -> Iterator[Metric]:
    """Counts as metrics; a state that no job is in counts 0."""
    jobs = GaugeMetricFamily("retort_jobs", "Jobs by state.", labels=("state",))
    for state in State:
        jobs.add_metric((state.value,), counts.jobs.get(state, 0))
    yield jobs
    yield gauge("retort_jobs_left_behind", "Running jobs whose worker's lease is over.", counts.left_behind)
    text = (
        "Seconds since the oldest queued job was made or, after an attempt that failed, since its pause ended; 0 when"
        " none waits."
    )
    yield gauge("retort_oldest_queued_job_seconds", text, counts.oldest_seconds)
    workers = GaugeMetricFamily("retort_workers", "Live workers, by whether they have a job.", labels=("state",))
    for busy, word in ((False, "idle"), (True, "busy")):
        workers.add_metric((word,), counts.workers.get(busy, 0))
    yield workers


def read_counts(lease_seconds: float) -> Counts | None:
    """Counts of jobs and workers in the database; None, and a line in the log, when it does not answer."""
    try:
        with reading() as session:
            return _count(session, lease_seconds)
    except SQLAlchemyError as error:
        log.warning("metrics without the database: %s", why(error))
        return None


def _count(session: Session, lease_seconds: float) -> Counts:
    jobs = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state)).all()
    over = is_over(JobRow.lease_ends, longest_lease(lease_seconds))
    left_behind = select(func.count()).where(JobRow.state == State.running, over)
    since = func.min(case((JobRow.not_before > JobRow.created_at, JobRow.not_before), else_=JobRow.created_at))
    waited = session.scalar(select(database_now() - since).where(JobRow.state == State.queued))
    busy = WorkerRow.job_id.is_not(None)
    alive = select(busy, func.count()).where(is_near(WorkerRow.seen_at, lease_seconds)).group_by(busy)
    return Counts(
        jobs=dict(jobs),
        left_behind=session.scalars(left_behind).one(),
        oldest_seconds=max(0.0, waited or 0.0),
        workers={bool(has): count for has, count in session.execute(alive)},
    )


registry = CollectorRegistry()
registry.register(Fleet())


def scrape() -> bytes:
    """All metrics of the front end, in Prometheus's text format."""
    return generate_latest(metrics.registry) + generate_latest(registry)
