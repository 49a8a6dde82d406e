"""What the API shows of users' data sets; what it takes is retort.ingest.Ingest."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from retort.dataset import DataFacts
from retort.ingest import Origin
from service.datasets.models import Dataset, DatasetState, state_of, trouble_of
from service.jobs.models import Job
from service.schemas import Shown


class DatasetLinks(Shown):
    """Where the data set and its job are, as paths."""

    self: str
    job: str | None
    """Null once the job was deleted."""


class DatasetRead(Shown):
    """Images that were taken in, or are being."""

    id: str
    """What a recipe names: `{"name": "stored", "dataset": id}`."""
    name: str
    state: DatasetState
    """Where it stands: ingesting, ready or failed."""
    error: str | None
    """One sentence why it cannot be used, if it cannot."""
    source: Origin
    """Where its images came from."""
    digest: str | None
    """sha256, hex, of its archive: the same images, names and settings give the same. Null until it is ready."""
    size: int | None
    """Bytes of its archive."""
    facts: DataFacts | None
    """Classes, parts and statistics."""
    job_id: str | None
    """The job that makes or made it."""
    created_at: datetime
    links: DatasetLinks


class DatasetDetail(DatasetRead):
    """One data set, with all that was found in its images."""

    report: dict[str, Any] | None
    """How its classes were told, sizes, formats, duplicates, what was broken or left out, and warnings."""


def shown(dataset: Dataset, job: Job | None) -> DatasetRead:
    """A data set as lists show it."""
    return DatasetRead(**_fields(dataset, job))


def detail(dataset: Dataset, job: Job | None) -> DatasetDetail:
    """A data set as it is shown alone."""
    return DatasetDetail(**_fields(dataset, job), report=dataset.report)


def _fields(dataset: Dataset, job: Job | None) -> dict[str, Any]:
    copied = ("id", "name", "source", "digest", "size", "facts", "job_id", "created_at")
    job_link = None if dataset.job_id is None else f"/v1/jobs/{dataset.job_id}"
    return {
        **{name: getattr(dataset, name) for name in copied},
        "state": state_of(dataset, job),
        "error": trouble_of(dataset, job),
        "links": DatasetLinks(self=f"/v1/datasets/{dataset.id}", job=job_link),
    }
