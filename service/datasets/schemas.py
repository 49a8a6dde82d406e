"""User data sets as the API shows them; it takes a retort.ingest.Ingest."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from retort.ingest import THUMBNAILS, Origin
from retort.tasks import AnyFacts
from service.datasets.models import DatasetRow, DatasetState
from service.datasets.products import PRODUCTS
from service.jobs.models import JobRow
from service.schemas import DescribedBy, ResponseModel

StoredFacts = Annotated[dict[str, Any], DescribedBy(AnyFacts)]


class DatasetLinks(ResponseModel):
    """Paths of the data set and its job."""

    self: str
    job: str | None
    """Null once the job was deleted."""
    thumbnails: str | None
    """Small images of each class, a JPEG that the report's `thumbnails` describes; null until it is ready, once the job
    was deleted, and for data sets of before version 0.3."""


class DatasetRead(ResponseModel):
    """Images that were taken in, or are being."""

    id: str
    """The name for recipes: `{"name": "stored", "dataset": id}`."""
    name: str
    state: DatasetState
    """Its state: ingesting, ready or failed."""
    error: str | None
    """One sentence why it cannot be used, if it cannot."""
    source: Origin
    """The source of its images."""
    digest: str | None
    """sha256, hex, of its archive: the same images, names and settings give the same. Null until it is ready."""
    size: int | None
    """Bytes of its archive."""
    facts: StoredFacts | None
    """Classes, splits and statistics."""
    job_id: str | None
    """The job that makes or made it."""
    created_at: datetime
    links: DatasetLinks


class DatasetDetail(DatasetRead):
    """One data set, with the report on its images."""

    report: dict[str, Any] | None
    """The source of its classes, sizes, formats, duplicates, broken and omitted files, and warnings."""


def shown(dataset: DatasetRow, job: JobRow | None) -> DatasetRead:
    """A data set as lists show it."""
    return DatasetRead(**_fields(dataset, job))


def detail(dataset: DatasetRow, job: JobRow | None) -> DatasetDetail:
    """A data set as it is shown alone."""
    return DatasetDetail(**_fields(dataset, job), report=dataset.report)


def _fields(dataset: DatasetRow, job: JobRow | None) -> dict[str, Any]:
    shared = PRODUCTS.fields(dataset, job)
    own = {name: getattr(dataset, name) for name in ("source", "digest", "facts")}
    links = DatasetLinks(**shared["links"], thumbnails=_thumbnails(dataset))
    return {**shared, **own, "links": links}


def _thumbnails(dataset: DatasetRow) -> str | None:
    if dataset.job_id is None or "thumbnails" not in (dataset.report or {}):
        return None
    return f"/v1/jobs/{dataset.job_id}/artifacts/{THUMBNAILS}"
