"""This machine's GPU, memory and disk, as jobs may use them; read without torch and without touching the GPU."""

from __future__ import annotations

import csv
import logging
import os
import shutil
import subprocess
from functools import cache

from retort.limits import memory
from service.settings import Settings
from service.workers.repository import Machine

DRIVER_SECONDS = 20
"""Seconds that the driver may take to answer."""
MIB = 2**20

log = logging.getLogger(__name__)


def measure(settings: Settings) -> Machine:
    """The GPU, the memory, and the room that is free on the disk of the storage at this moment."""
    gpu = first_gpu()
    name, memory_bytes = gpu if gpu else (None, memory())
    return Machine(name, memory_bytes, free_disk(settings))


def free_disk(settings: Settings) -> int:
    """Bytes that jobs may fill on the disk of the storage."""
    settings.storage.mkdir(parents=True, exist_ok=True)
    return max(0, shutil.disk_usage(settings.storage).free - settings.disk_reserve_bytes)


@cache
def first_gpu() -> tuple[str, int] | None:
    """Name and memory, in bytes, of the GPU that an engine would take; None where there is none."""
    program, visible = shutil.which("nvidia-smi"), os.environ.get("CUDA_VISIBLE_DEVICES")
    if program is None or visible in ("", "-1"):
        return None
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    if visible is not None:
        command += ["--id", visible.partition(",")[0]]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=True).stdout
        name, mebibytes = next(csv.reader(listed.splitlines(), skipinitialspace=True))
        return name, int(mebibytes) * MIB
    except (OSError, subprocess.SubprocessError, StopIteration, ValueError) as error:
        log.warning("nvidia-smi lists no GPU, so this worker takes no job that needs one: %s", error)
        return None
