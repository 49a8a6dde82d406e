"""Limits of memory and processors, read from trees of control groups as systems lay them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retort import limits

GIB = 2**30
HUGE = "9223372036854771712"
"""A limit of version 1 that is none."""


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 processors and 256 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 256 * GIB // 4096, "SC_PAGE_SIZE": 4096}.__getitem__)


CASES: dict[str, tuple[str, dict[str, str], int, int]] = {
    "no control groups": ("", {}, 256, 64),
    "version 2, no limit": ("0::/\n", {"memory.max": "max\n", "cpu.max": "max 100000\n"}, 256, 64),
    "version 2, a container's own view": ("0::/\n", {"memory.max": str(8 * GIB), "cpu.max": "400000 100000"}, 8, 4),
    "version 2, the machine's view in a container": (
        "0::/docker/0123\n", {"memory.max": str(8 * GIB), "cpu.max": "400000 100000"}, 8, 4,
    ),
    "version 2, a service and its slice": (
        "0::/system.slice/retort.service\n",
        {
            "system.slice/memory.max": str(16 * GIB), "system.slice/cpu.max": "max 100000",
            "system.slice/retort.service/memory.max": "max", "system.slice/retort.service/cpu.max": "250000 100000",
            "other.slice/memory.max": str(GIB), "other.slice/cpu.max": "100000 100000",
        },
        16, 3,
    ),
    "version 2, less than a processor": ("0::/\n", {"cpu.max": "50000 100000"}, 256, 1),
    "version 2, another period": ("0::/\n", {"cpu.max": "1500 1000"}, 256, 2),
    "version 2, more than the machine has": (
        "0::/\n", {"memory.max": str(999 * GIB), "cpu.max": "9900000 100000"}, 256, 64,
    ),
    "version 2, a group that is elsewhere": ("0::/../../other\n", {"memory.max": str(GIB)}, 1, 64),
    "version 1, no limit": (
        "4:memory:/\n3:cpu,cpuacct:/\n",
        {"memory/memory.limit_in_bytes": HUGE, "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        256, 64,
    ),
    "version 1, a container": (
        "11:cpuset:/docker/0123\n4:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n1:name=systemd:/docker/0123\n",
        {
            "memory/memory.limit_in_bytes": f"{6 * GIB}\n",
            "cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n",
        },
        6, 2,
    ),
    "version 1, a group of a group": (
        "4:memory:/a/b\n3:cpu:/a/b\n0::/\n",
        {
            "memory/a/b/memory.limit_in_bytes": HUGE, "memory/a/memory.limit_in_bytes": str(4 * GIB),
            "memory/memory.limit_in_bytes": HUGE,
            "cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000",
            "cpu/a/cpu.cfs_quota_us": "800000", "cpu/a/cpu.cfs_period_us": "100000",
        },
        4, 8,
    ),
    "both versions, limits in the first": (
        "4:memory:/\n3:cpu:/\n0::/session\n",
        {
            "memory/memory.limit_in_bytes": str(2 * GIB), "unified/session/cgroup.procs": "",
            "cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000",
        },
        2, 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_least_of_all_limits_counts(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups, files, gib, processors = CASES[case]
    (tmp_path / "own").write_text(groups)
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(limits, "MOUNT", tmp_path / "cgroup")
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert (limits.memory(), limits.processors()) == (gib * GIB, processors)


def test_processors_that_others_have_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert limits.processors() == 1


def test_a_system_without_control_groups_has_what_the_machine_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "none")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert (limits.memory(), limits.processors()) == (256 * GIB, os.cpu_count())
