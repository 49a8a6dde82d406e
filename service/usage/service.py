"""The limits of projects, and whether there is room below them.

A project's own limit stands over the settings' one. How many of its jobs run at once is the claim's business.
"""

from __future__ import annotations

import time

from sqlalchemy.orm import Session

from service.blobs.references import drafted_bytes, stored_bytes
from service.db import reading
from service.errors import TooLarge, TooManyRequests
from service.jobs.models import State
from service.projects.models import ProjectRow
from service.settings import get_settings
from service.usage import repository
from service.usage.schemas import ProjectLimits, Usage, UsageCounts

QUEUE_RETRY_SECONDS = 60
"""When to ask again while as many jobs are queued as may be."""
PART_RETRY_SECONDS = 5
"""When to send a part again that finds no room beside others on their way."""
DAY_SECONDS = 86_400.0
NEARLY_FULL = 1_000
"""With fewer places than that left, jobs of a project are queued one after the other: more than that are never made at
one moment, as each takes a connection of the database."""
MEASURED_SECONDS = 30.0
"""Seconds for which a count of a project's stored bytes is used again, where jobs are made."""

_measured: dict[tuple[str, str], tuple[float, int]] = {}
"""By database and project: when, by this process's clock, and how many bytes."""


def limits_of(project: ProjectRow) -> ProjectLimits:
    """The project's limits, with the settings' in the place of those that it has not."""
    settings = get_settings()
    return ProjectLimits(
        max_running=project.max_running,
        max_queued=project.max_queued or settings.max_queued,
        max_stored_bytes=project.max_stored_bytes or settings.max_stored_bytes,
        max_upload_bytes=project.max_upload_bytes or settings.max_upload_bytes,
        requests_per_second=project.requests_per_second or settings.requests_per_second,
        jobs_retention_days=project.jobs_retention_days or settings.jobs_retention_days,
        datasets_retention_days=project.datasets_retention_days or settings.datasets_retention_days,
        models_retention_days=project.models_retention_days or settings.models_retention_days,
        uploads_retention_days=project.uploads_retention_days or settings.unused_upload_seconds / DAY_SECONDS,
    )


def usage(session: Session, project_id: str) -> Usage:
    """The limits of a project and its present use."""
    project = repository.read(session, project_id)
    used = UsageCounts(
        running=repository.count_jobs(session, project_id, State.running),
        queued=repository.count_jobs(session, project_id, State.queued),
        stored_bytes=stored_bytes(session, project_id),
    )
    return Usage(project=project.name, limits=limits_of(project), used=used)


def most_stored_bytes(project_id: str) -> int:
    """Bytes that the project may store; no file of one of its jobs may have more."""
    with reading() as session:
        return limits_of(repository.read(session, project_id)).max_stored_bytes


def uploads_retention_seconds(session: Session, project_id: str) -> float:
    """Seconds for which a complete upload of the project stays after something was last made of it."""
    return limits_of(repository.read(session, project_id)).uploads_retention_days * DAY_SECONDS


def check_queue(session: Session, project_id: str) -> float:
    """Raise TooManyRequests unless one more job of the project may be queued, and TooLarge when it stores too much.

    Gives the time by the database's clock. Where few places are left, no other may be queued for the project until the
    transaction ends, so that two at once do not take one place.
    """
    settings, found = get_settings(), repository.standing(session, project_id)
    if found.queued > (found.max_queued or settings.max_queued) - NEARLY_FULL:
        repository.lock(session, project_id)
        found = repository.standing(session, project_id)  # now that nobody else adds to it
    if found.queued >= (found.max_queued or settings.max_queued):
        jobs = f"{found.queued} queued {'job' if found.queued == 1 else 'jobs'}"
        detail = f"the project has {jobs}, which is as many as it may; send this one when one of them has started"
        raise TooManyRequests(detail, retry_seconds=QUEUE_RETRY_SECONDS)
    stored = _stored_lately(session, project_id)
    most = found.max_stored_bytes or settings.max_stored_bytes
    if stored >= most:
        raise TooLarge(f"{_full(stored, most)}; delete jobs, data sets or models first")
    return found.now


def measure(project_id: str) -> None:
    """Count what the project stores before a transaction that asks for it, which would hold others up meanwhile: of
    many things that takes longer than all else. It is done again after some seconds at the earliest."""
    if _known(project_id) is None:
        with reading() as session:
            _stored_lately(session, project_id)


def check_upload(session: Session, project_id: str, size: int) -> None:
    """Raise TooLarge unless the project may upload so many bytes now.

    Until the transaction ends no other upload of the project is checked.
    """
    limits = limits_of(repository.lock(session, project_id))
    if size > limits.max_upload_bytes:
        raise TooLarge(f"the upload has {size:,} bytes; at most {limits.max_upload_bytes:,} bytes are taken")
    stored = stored_bytes(session, project_id)
    if stored + size > limits.max_stored_bytes:
        full = _full(stored, limits.max_stored_bytes)
        raise TooLarge(f"{full}, so {size:,} more find no room; delete jobs, data sets or models first")


def check_part(session: Session, project_id: str, size: int, missing: int) -> None:
    """Raise TooManyRequests unless so many bytes of an upload may be on their way now, of which `missing` have not come
    yet: those are counted with the upload, and all that comes besides, such as a part that is sent twice, must find
    room as well. Until the transaction ends no other is checked."""
    limits = limits_of(repository.lock(session, project_id))
    coming = drafted_bytes(session, project_id) + size
    if coming > missing and (stored := stored_bytes(session, project_id)) + size > limits.max_stored_bytes + missing:
        full = _full(stored, limits.max_stored_bytes)
        raise TooManyRequests(
            f"{full}, with what is on its way; send the part again in {PART_RETRY_SECONDS} s",
            retry_seconds=PART_RETRY_SECONDS,
        )


def _full(stored: int, most: int) -> str:
    return f"the project stores {stored:,} bytes of the {most:,} that it may"


def _stored_lately(session: Session, project_id: str) -> int:
    known = _known(project_id)
    if known is not None:
        return known
    stored = stored_bytes(session, project_id)
    _measured[get_settings().database, project_id] = (time.monotonic(), stored)
    return stored


def _known(project_id: str) -> int | None:
    """The last count, if it is recent enough."""
    at, stored = _measured.get((get_settings().database, project_id), (-MEASURED_SECONDS, 0))
    return stored if time.monotonic() - at < MEASURED_SECONDS else None
