"""Memory and processors that this process may use: the machine's, or fewer where its container has a limit.

Control groups of both versions are read where systems mount them, at every call: limits change while a process runs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
NO_LIMIT = ("max", "-1")


def memory() -> int:
    """Bytes of memory."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [*_read("memory.max"), *_read("memory.limit_in_bytes")]
    return min([physical, *(int(limit) for limit in limits if limit not in NO_LIMIT)])


def processors() -> int:
    """Processors; a part of one counts as one."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    version_1 = zip(_read("cpu.cfs_quota_us"), _read("cpu.cfs_period_us"), strict=False)
    shares = [*(limit.split() for limit in _read("cpu.max")), *version_1]
    return min([allowed, *(math.ceil(int(quota) / int(period)) for quota, period in shares if quota not in NO_LIMIT)])


def _read(name: str) -> Iterator[str]:
    """Contents of that file in this process's control group and in all groups above it."""
    controller = name.partition(".")[0]
    with suppress(OSError):
        for line in OWN_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            # All controllers of version 2 have one mount, and a line that names none of them.
            if not controllers or controller in controllers.split(","):
                top = MOUNT / controller if controllers else MOUNT
                group = top / path.lstrip("/")
                for folder in (group, *group.parents):
                    if folder.is_relative_to(top) and (folder / name).is_file():
                        yield (folder / name).read_text().strip()
