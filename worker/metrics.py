"""Prometheus metrics of a worker. Labels have few values: words of this code, and names of signals."""

from __future__ import annotations

import time
from errno import EADDRNOTAVAIL
from math import inf
from socket import SOCK_STREAM, getaddrinfo
from typing import Literal

from prometheus_client import Counter, Gauge, start_http_server

from retort.event import Progress
from service.metrics import make_registry
from service.settings import Settings

registry = make_registry()

_alive = Gauge(
    "retort_worker_alive", "1 while the database noted, within the time of a lease, that this worker is alive.",
    registry=registry,
)  # fmt: skip
_claims = Counter("retort_worker_claims", "Jobs that this worker claimed.", registry=registry)
_attempts = Counter(
    "retort_worker_attempts", "Attempts that ended, by the state they left the job in and, where something went wrong,"
    " its cause; abandoned: the lease was lost.", ("outcome", "cause"), registry=registry,
)  # fmt: skip
_renewals = Counter(
    "retort_worker_lease_renewals", "Renewals of leases: ok, failed (the database did not answer), or lost for good.",
    ("result",), registry=registry,
)  # fmt: skip
_steps = Counter("retort_worker_steps", "Optimizer steps that engines reported.", registry=registry)
_step_seconds = Counter(
    "retort_worker_steps_seconds", "Seconds between the reports of those steps, evaluations within them included.",
    registry=registry,
)  # fmt: skip
_examples_per_second = Gauge(
    "retort_worker_examples_per_second",
    "Examples that the running phase trains on a second, as the engine last reported; 0 when none runs.",
    registry=registry,
)
_events = Counter("retort_worker_events", "Events written into jobs' event logs.", registry=registry)
_files = Counter(
    "retort_worker_stored_files", "Files stored in the database, by what they are.", ("what",), registry=registry
)
_bytes = Counter("retort_worker_stored_bytes", "Bytes of those files.", ("what",), registry=registry)

_noted_at = -inf
"""Time at which the database last noted that this worker is alive, by the monotonic clock."""
_last: tuple[str, str | None, int, float] | None = None
"""Phase, network, step and time of the last progress."""


def serve(settings: Settings) -> None:
    """Answer scrapes from threads of their own, where a port is set. Raises SystemExit where it cannot listen."""
    if settings.metrics_port is None:
        return
    _alive.set_function(lambda: time.monotonic() < _noted_at + settings.lease_seconds)
    for host in settings.metrics_host:
        try:
            _serve_at(host, settings.metrics_port)
        except OSError as error:
            found = f"metrics cannot be served at {host}:{settings.metrics_port}: {error.strerror or error}"
            raise SystemExit(f"{found}; set RETORT_METRICS_HOST or RETORT_METRICS_PORT to another") from None


def _serve_at(host: str, port: int) -> None:
    """Listen at those addresses of a host that are this machine's: a name may be that of several. Raises OSError."""
    addresses = {str(found[4][0]) for found in getaddrinfo(host, port, type=SOCK_STREAM)}
    others = set()
    for address in addresses:
        try:
            start_http_server(port, address, registry)
        except OSError as error:
            if error.errno != EADDRNOTAVAIL:
                raise
            others.add(address)
    if others == addresses:
        raise OSError(EADDRNOTAVAIL, "this machine has no such address")


def note_alive() -> None:
    """The database noted just now that this worker is alive."""
    global _noted_at
    _noted_at = time.monotonic()


def count_claim() -> None:
    """Count a claim."""
    _claims.inc()


def count_renewal(result: Literal["ok", "failed", "lost"]) -> None:
    """Count a renewal of a lease, or its failure."""
    _renewals.labels(result).inc()


def count_attempt(outcome: str, cause: str | None = None) -> None:
    """Count an attempt that ended, by the job's state or `abandoned`; from now on nothing trains."""
    global _last
    _attempts.labels(outcome, label_of(cause)).inc()
    _examples_per_second.set(0)
    _last = None


def label_of(cause: str | None) -> str:
    """The label of a cause: `exit` for all exit codes, `worker` for all types of the worker's own errors."""
    if cause is None:
        return ""
    if cause.startswith("exit_"):
        return "exit"
    return cause if cause.startswith("SIG") or cause.islower() else "worker"


def count_steps(progress: Progress) -> None:
    """Count the steps since the engine's last progress in the same phase and network."""
    global _last
    now = time.monotonic()
    if progress.examples_per_second is not None:
        _examples_per_second.set(progress.examples_per_second)
    if progress.step is None:
        return
    if _last and _last[:2] == (progress.phase, progress.network) and progress.step > _last[2]:
        _steps.inc(progress.step - _last[2])
        _step_seconds.inc(now - _last[3])
    _last = (progress.phase, progress.network, progress.step, now)


def count_events(events: int) -> None:
    """Count events written."""
    _events.inc(events)


def count_file(what: Literal["artifact", "checkpoint"], size: int) -> None:
    """Count a file stored, of that many bytes."""
    _files.labels(what).inc()
    _bytes.labels(what).inc(size)
