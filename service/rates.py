"""Rate limits: a bucket of tokens for each name, counted in this process alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_SECONDS = 10.0
"""A bucket holds what flows in during that time: the burst after a pause."""


class Rates:
    """Buckets by name. Several processes of a service count each for itself."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._full: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, name: str, per_second: float) -> float:
        """Take one token; gives 0, or the seconds until there is one."""
        room = max(1.0, per_second * BURST_SECONDS)
        with self._lock:
            now = self._clock()
            left, at = self._full.get(name, (room, now))
            left = min(room, left + (now - at) * per_second)
            if left < 1.0:
                self._full[name] = (left, now)
                return (1.0 - left) / per_second
            self._full[name] = (left - 1.0, now)
            return 0.0
