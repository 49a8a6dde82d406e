"""HTTP for artifacts: which there are, and their bytes."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse

from service.access.caller import Caller
from service.access.dependency import needs
from service.artifacts import service
from service.artifacts.schemas import ArtifactRead
from service.artifacts.service import StoredArtifact
from service.blobs.service import read_bytes
from service.errors import problems
from service.jobs.service import check_exists
from service.paging import Page

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["artifacts"])

BYTES = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file", **BYTES},
    206: {"description": "The range that was asked for", **BYTES},
    304: {"description": "The caller has it already"},
    **problems(404, 416),
}


@router.get("", responses=problems(404))
def list_artifacts(caller: Annotated[Caller, needs("jobs:read")], job_id: str) -> Page[ArtifactRead]:
    """All files that the job made, by name."""
    check_exists(caller, job_id)
    return Page(items=service.page(job_id))


@router.get("/{name}", response_class=StreamingResponse, responses=DOWNLOAD)
def download_artifact(
    request: Request,
    caller: Annotated[Caller, needs("jobs:read")],
    job_id: str,
    name: str,
    range_: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header(alias="If-Range")] = None,
    if_none_match: Annotated[str | None, Header(alias="If-None-Match")] = None,
) -> Response:
    """The file's bytes, or one range of them."""
    check_exists(caller, job_id)
    stored = service.find(caller.project_id, job_id, name)
    headers = _headers(stored)
    if _has_it(if_none_match, stored.etag):
        return Response(status_code=304, headers={"ETag": stored.etag, "Cache-Control": headers["Cache-Control"]})
    size = stored.artifact.size
    if request.method == "HEAD":
        return Response(headers={**headers, "Content-Length": str(size)}, media_type=stored.artifact.media_type)
    part = service.asked_range(range_, size) if if_range in (None, stored.etag) else None
    wanted = range(size) if part is None else part
    headers["Content-Length"] = str(len(wanted))
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return StreamingResponse(
        read_bytes(stored.blob_id, wanted),
        status_code=200 if part is None else 206,
        headers=headers,
        media_type=stored.artifact.media_type,
    )


router.add_api_route(
    "/{name}", download_artifact, methods=["HEAD"], response_class=Response, responses=DOWNLOAD,
    operation_id="head_artifact", summary="Head Artifact", description="The file's size, digest and type alone.",
)  # fmt: skip


def _headers(stored: StoredArtifact) -> dict[str, str]:
    return {
        "ETag": stored.etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(stored.artifact.name, safe='')}",
    }


def _has_it(if_none_match: str | None, etag: str) -> bool:
    if if_none_match is None:
        return False
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in known or known == ["*"]
