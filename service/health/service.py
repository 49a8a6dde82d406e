"""Whether the service can work."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from sqlalchemy.engine import make_url

from service import revisions, wake_up
from service.db import get_engine, refused_lately
from service.errors import Unavailable
from service.health.schemas import Readiness
from service.settings import Settings, get_settings

LEAST_FREE_BYTES = 16 * 2**20
"""Room on the disk of a SQLite file below which it counts as full: what a request writes into its log takes some."""
PROBE_BYTES = 4096
"""Bytes written, and removed, to see that a folder takes files."""
LATELY_SECONDS = 60.0
"""For which a database counts as full that took nothing and has taken nothing since."""


def ready() -> Readiness:
    """The state of database and broker. Raises Unavailable unless the database answers, is migrated and has room."""
    found, wanted = revisions.current(get_engine()), revisions.head()
    if found != wanted:
        raise Unavailable(f"the database stands at migration {found or 'none'}; {wanted} is wanted, so migrate it")
    if full := disk_problem(get_settings()):
        raise Unavailable(f"{full}; make room")
    problem = wake_up.reachable()
    if problem is None:
        return Readiness(status="ok", broker="ok")
    return Readiness(status="degraded", broker=f"unreachable: {problem}")


def disk_problem(settings: Settings) -> str | None:
    """The reason why the database takes nothing more, as one sentence; None when nothing is known of that."""
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and url.database:
        folder = Path(url.database).absolute().parent
        free = shutil.disk_usage(folder).free
        if free < LEAST_FREE_BYTES:
            return f"the disk of the database is full: {free:,} bytes are free, and {LEAST_FREE_BYTES:,} are wanted"
        if problem := refusal(folder):
            return f"the folder of the database takes no file: {problem}"
    taken = not refused_lately(LATELY_SECONDS)
    return None if taken else "the database takes nothing: its disk is full, or it may only be read"


def refusal(folder: Path) -> str | None:
    """The reason why a folder takes no file; None when it does."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(PROBE_BYTES))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.strerror or str(error)
    return None
