"""Causes of a run's end: its exit code, and one sentence for people."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import ValidationError

from retort.dataset import DatasetError
from retort.download import Unreachable
from retort.engine.interrupt import (
    DISK_FULL,
    IMPOSSIBLE,
    MACHINE_FAILED,
    MEMORY_RAN_OUT,
    OUT_OF_MEMORY,
    STUDENTS_FAILED,
    UNREACHABLE,
    Impossible,
    MemoryExhausted,
    StudentsFailed,
)
from retort.spec import wrong_at
from retort.task import TaskError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FAILED = (errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE, errno.EREMOTEIO, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
FAILED_IN_WORDS = re.compile(r"CUDA (driver )?error|CUDNN_STATUS|CUBLAS_STATUS|NCCL|can't start new thread")
"""The words of errors of torch and Python that have no class of their own."""
NO_ROOM_IN_WORDS = re.compile(rf"\(os error ({'|'.join(map(str, NO_ROOM))})\)")
"""The words of safetensors, whose errors are not Python's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: a GPU's, or the machine's, which torch reports in words alone."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def is_disk_full(error: BaseException) -> bool:
    """Whether a file system, or the share of it that this user has, is full."""
    return (isinstance(error, OSError) and error.errno in NO_ROOM) or bool(NO_ROOM_IN_WORDS.search(str(error)))


def is_machines(error: BaseException) -> bool:
    """Whether the machine failed: its GPU, its disk, or its limit of threads and open files."""
    failed = isinstance(error, torch.AcceleratorError) or (isinstance(error, OSError) and error.errno in FAILED)
    return failed or (isinstance(error, RuntimeError) and bool(FAILED_IN_WORDS.search(str(error))))


def cause_of(error: Exception, places: tuple[Path, ...]) -> tuple[int, str] | None:
    """Exit code and sentence; None for an error of any other kind. `places` are the folders that a run writes to."""
    behind = list(_chain(error))
    if any(map(is_disk_full, behind)):
        return DISK_FULL, f"the disk is full: {_free(places)}, without what did not fit"
    if isinstance(error, MemoryExhausted):
        return OUT_OF_MEMORY, str(error)
    if any(map(is_out_of_memory, behind)):
        words = next(str(one) for one in behind if is_out_of_memory(one)).partition(". ")[0].partition("\n")[0]
        return MEMORY_RAN_OUT, f"memory ran out{f': {words}' if words else ''}; a smaller batch_size takes less"
    if any(map(is_machines, behind)):
        words = next(str(one) for one in behind if is_machines(one)).partition("\n")[0]
        return MACHINE_FAILED, f"the machine failed: {words}"
    if isinstance(error, StudentsFailed):
        return STUDENTS_FAILED, str(error)
    if isinstance(error, Unreachable):
        return UNREACHABLE, str(error)
    if isinstance(error, ValidationError):
        return IMPOSSIBLE, wrong_at("recipe", error)
    if isinstance(error, Impossible | DatasetError | TaskError):
        return IMPOSSIBLE, str(error)
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it came from."""
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__


def _free(places: tuple[Path, ...]) -> str:
    """Free bytes of the folder that has the least room, in words."""
    here = (next(folder for folder in (place, *place.absolute().parents) if folder.exists()) for place in places)
    free, folder = min((shutil.disk_usage(folder).free, folder) for folder in here)
    return f"{free:,} bytes are free in {folder}"
