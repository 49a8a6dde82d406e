"""Listing and finding artifacts, and ranges of their bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from retort.registry import nearest
from service.artifacts import repository
from service.artifacts.schemas import ArtifactRead, shown
from service.blobs.service import read_json
from service.db import reading
from service.errors import NotFound, RangeNotSatisfiable, quote

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
"""One range; of several, or of another unit, all is sent instead, as RFC 9110 allows."""


@dataclass(frozen=True)
class StoredArtifact:
    """A file of a job, ready to be sent."""

    artifact: ArtifactRead
    blob_id: str

    @property
    def etag(self) -> str:
        return f'"{self.artifact.sha256}"'


def page(job_id: str) -> list[ArtifactRead]:
    """All files of a job that exists, by name."""
    with reading() as session:
        return [shown(artifact, blob) for artifact, blob in repository.artifacts_of(session, job_id)]


def find(project_id: str, job_id: str, name: str) -> StoredArtifact:
    """A file of a job. Raises NotFound, which names the nearest file of that job. Holds no connection afterwards."""
    with reading() as session:
        found = repository.find_artifact(session, project_id, job_id, name)
        if found is not None:
            return StoredArtifact(shown(*found), found[0].blob_id)
    known = [artifact.name for artifact in page(job_id)]
    raise NotFound(f"job {job_id} has no artifact {quote(name)}{nearest(name, known)}")


def asked_range(header: str | None, size: int) -> range | None:
    """The bytes that a Range header asks for; None for all. Raises RangeNotSatisfiable."""
    match = RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None or match[0] == "bytes=-":
        return None
    if match[1]:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
        if match[2] and int(match[2]) < first:
            return None  # no range at all, as RFC 9110 reads it
    else:
        first, last = max(0, size - int(match[2])), size - 1
    if first >= size:
        raise RangeNotSatisfiable(
            f"the range {quote(header)} begins beyond the file's end, at {size:,} bytes", size=size
        )
    return range(first, last + 1)


def read_description(project_id: str, job_id: str, network: str) -> Mapping[str, Any] | None:
    """The content of `<network>.json`, of a network that a job left as weights; None when it left none, or none that
    can be read."""
    try:
        find(project_id, job_id, f"{network}.safetensors")
        stored = find(project_id, job_id, f"{network}.json")
    except NotFound:
        return None
    try:
        with reading() as session:
            described = read_json(session, stored.blob_id)
    except ValueError:
        return None
    return described if _is_description(described) else None


def _is_description(value: Any) -> bool:
    """Whether JSON that an engine wrote names an architecture and, if it has them, its wrapper's method and the size
    of its input."""
    if not isinstance(value, dict) or not isinstance(value.get("architecture"), str):
        return False
    wrapper, image = value.get("wrapper"), value.get("input")
    if image is not None and not (isinstance(image, dict) and isinstance(image.get("size"), int)):
        return False
    return wrapper is None or (isinstance(wrapper, dict) and isinstance(wrapper.get("method"), str))
