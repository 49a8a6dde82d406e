"""Artifacts as the API shows them."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import quote

from service.artifacts.models import ArtifactRow
from service.blobs.models import BlobRow
from service.schemas import ResponseModel


class ArtifactRead(ResponseModel):
    """A file that a job made."""

    name: str
    network: str | None
    """The student, or `teacher`; null for files about the whole job."""
    media_type: str
    size: int
    """In bytes."""
    sha256: str
    """Hex; also the file's ETag."""
    created_at: datetime
    url: str
    """Path of its bytes."""


def shown(artifact: ArtifactRow, blob: BlobRow) -> ArtifactRead:
    """An artifact as the API shows it; its blob is committed, and so has a digest."""
    return ArtifactRead(
        name=artifact.name, network=artifact.network, media_type=artifact.media_type, size=blob.size,
        sha256=blob.sha256, created_at=artifact.created_at,
        url=f"/v1/jobs/{artifact.job_id}/artifacts/{quote(artifact.name, safe='')}",
    )  # fmt: skip
