"""HTTP for uploads: parse, call the service, return."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from service.access.caller import Caller
from service.access.dependency import needs
from service.audit.service import recorded
from service.body import described, sent
from service.db import reading
from service.edge import LargerBody
from service.errors import problems
from service.idempotency import IdempotencyKey
from service.paging import Page, cut, decode_position
from service.uploads import reception, service
from service.uploads.schemas import (
    MOST_PART_BYTES,
    PartRead,
    UploadCreate,
    UploadDetail,
    UploadQuery,
    UploadRead,
    part_shown,
)

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

LARGER_BODIES = (LargerBody("PUT", re.compile(r"/v1/uploads/[^/]+/parts/[^/]+"), MOST_PART_BYTES),)
UPLOAD = UploadCreate.model_json_schema(ref_template="#/components/schemas/{model}")
UPLOAD.pop("$defs")  # they are the page's own
BYTES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {reception.MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}
Reader = Annotated[Caller, needs("jobs:read")]
Writer = Annotated[Caller, needs("data:write")]
ContentDigest = Annotated[
    str | None,
    Header(
        alias="Content-Digest",
        description="RFC 9530: `sha-256=:...:`, the sha256 of this part in base 64. It, or Repr-Digest, is required.",
    ),
]
ReprDigest = Annotated[str | None, Header(alias="Repr-Digest", description="The same as Content-Digest.")]


@router.post(
    "",
    status_code=201,
    responses=problems(413, 415, 422),
    openapi_extra=described(UPLOAD),
)
def create_upload(
    caller: Writer,
    asked: Annotated[UploadCreate, Depends(sent(UploadCreate))],
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> UploadDetail:
    """Begin an upload. It is complete at once where the project has the same bytes already."""
    with recorded(caller) as session:
        upload, replayed = service.create(session, caller, asked, idempotency_key)
        caller.note.add(upload_id=upload.id)
        made = service.describe(session, upload)
    response.headers["Location"] = f"/v1/uploads/{upload.id}"
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return made


@router.get("", responses=problems(422))
def list_uploads(caller: Reader, query: Annotated[UploadQuery, Query()]) -> Page[UploadRead]:
    """The project's uploads, newest first."""
    after = decode_position(query.cursor)
    with reading() as session:
        rows = service.page(session, caller, query, after, query.limit + 1)
        uploads, cursor = cut(rows, query.limit, lambda upload: (upload.created_at, upload.id))
        return Page(items=service.shown_all(session, uploads), next_cursor=cursor)


@router.get("/{upload_id}", responses=problems(404))
def read_upload(caller: Reader, upload_id: str) -> UploadDetail:
    """One upload, with the parts that have come."""
    with reading() as session:
        return service.describe(session, service.read(session, caller, upload_id))


@router.put(
    "/{upload_id}/parts/{number}",
    responses=problems(404, 409, 413, 415, 422),
    openapi_extra=BYTES,
)
async def put_part(
    request: Request,
    caller: Writer,
    upload_id: str,
    number: int,
    content_digest: ContentDigest = None,
    repr_digest: ReprDigest = None,
) -> PartRead:
    """Send one part, in any order, again at will, several at once. It counts once it is whole and has the sha256 that
    its header promises; then it takes the place of one of that number that came before."""
    expected = await run_in_threadpool(reception.expect, caller, upload_id, number, request.headers)
    return part_shown(await reception.receive(expected, request.stream()))


@router.post("/{upload_id}/complete", responses=problems(404, 409, 422))
async def complete_upload(caller: Writer, upload_id: str) -> UploadDetail:
    """Verify the whole and close the upload. Asking twice does no harm."""
    return await service.complete(caller, upload_id)


@router.delete("/{upload_id}", status_code=204, responses=problems(404, 409))
def delete_upload(caller: Writer, upload_id: str) -> None:
    """Give an upload up that no job goes on to use. What was made of it stays."""
    with recorded(caller) as session:
        service.delete(session, caller, upload_id)
