"""Metrics of the front end's requests, for Prometheus. Labels have few values: no ids, no names of users."""

from __future__ import annotations

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
"""Any other method that a caller sends counts as `other`."""
NO_ROUTE = "none"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of the latency histogram's buckets."""


def make_registry() -> CollectorRegistry:
    """An empty registry but for Prometheus's own metrics of any Python process: memory, time, files, collections."""
    disable_created_metrics()  # a second series beside each counter, which nothing reads
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    return registry


registry = make_registry()

_requests = Counter(
    "retort_http_requests", "Requests answered, by route, method and status.", ("route", "method", "status"),
    registry=registry,
)  # fmt: skip
_seconds = Histogram(
    "retort_http_request_seconds", "Seconds from a request to the beginning of its answer.", ("route", "method"),
    buckets=SECONDS, registry=registry,
)  # fmt: skip
_in_progress = Gauge(
    "retort_http_requests_in_progress", "Requests being answered, followers and downloads among them.",
    registry=registry,
)  # fmt: skip
_received = Counter("retort_http_received_bytes", "Bytes of requests' bodies.", registry=registry)
_sent = Counter("retort_http_sent_bytes", "Bytes of answers' bodies.", registry=registry)


def request_begins() -> None:
    """Count a request whose head was read."""
    _in_progress.inc()


def request_ends(*, received_bytes: int, sent_bytes: int) -> None:
    """Count a request whose answer went out whole, or broke off."""
    _in_progress.dec()
    _received.inc(received_bytes)
    _sent.inc(sent_bytes)


def answered(route: str | None, method: str, status: int, seconds: float) -> None:
    """Count an answer's beginning. `route` is an address as the OpenAPI page has it; None where none matched."""
    route, method = route or NO_ROUTE, method if method in METHODS else "other"
    _requests.labels(route, method, str(status)).inc()
    _seconds.labels(route, method).observe(seconds)
