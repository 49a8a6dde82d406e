"""HTTP for models: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from service.access.caller import Caller
from service.access.dependency import needs
from service.audit.service import recorded
from service.body import described, sent_json
from service.db import reading
from service.errors import problems
from service.idempotency import IdempotencyKey
from service.jobs.schemas import JobDetail
from service.jobs.service import describe
from service.models import service
from service.models.products import PRODUCTS
from service.models.schemas import ModelCreate, ModelDetail, ModelRead, detail, shown
from service.paging import Page, PageQuery, cut, decode_position

router = APIRouter(prefix="/v1/models", tags=["models"])

SentBody = Annotated[Any, Depends(sent_json)]
MODEL = ModelCreate.model_json_schema()
# In its place: no answer shows one, so the page does not know it by name.
MODEL["properties"]["expects"] = MODEL.pop("$defs")["ExpectsCreate"]
CHECK = described({"$ref": "#/components/schemas/Check"})


@router.post("", status_code=202, responses=problems(413, 415, 422), openapi_extra=described(MODEL))
def create_model(
    caller: Annotated[Caller, needs("data:write")],
    body: SentBody,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> ModelDetail:
    """Take in a trained network: a job builds and tries it, and then recipes may name it."""
    with recorded(caller) as session:
        (model, job), replayed = service.create(session, caller, body, idempotency_key)
        caller.note.add(model_id=model.id)
        made = detail(model, job)
    response.headers["Location"] = made.links.self
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return made


@router.get("", responses=problems(422))
def list_models(caller: Annotated[Caller, needs("jobs:read")], query: Annotated[PageQuery, Query()]) -> Page[ModelRead]:
    """The project's models, newest first."""
    after = decode_position(query.cursor)
    with reading() as session:
        rows = PRODUCTS.page(session, caller, after, query.limit + 1)
    some, cursor = cut(rows, query.limit, lambda row: (row[0].created_at, row[0].id))
    return Page(items=[shown(*row) for row in some], next_cursor=cursor)


@router.get("/{model_id}", responses=problems(404))
def read_model(caller: Annotated[Caller, needs("jobs:read")], model_id: str) -> ModelDetail:
    """One model, with all that was found when it was taken in."""
    with reading() as session:
        return detail(*PRODUCTS.read(session, caller, model_id))


@router.post("/{model_id}/check", status_code=202, responses=problems(404, 409, 413, 415, 422), openapi_extra=CHECK)
def check_model(
    caller: Annotated[Caller, needs("jobs:write")],
    model_id: str,
    body: SentBody,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobDetail:
    """Try a model on labelled images: a job whose report holds its accuracy, and whether order or input seem wrong.

    The body is a Check without `model`."""
    with recorded(caller) as session:
        job, replayed = service.check(session, caller, model_id, body, idempotency_key)
        caller.note.add(job_id=job.id)
        made = describe(session, job)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return made


@router.delete("/{model_id}", status_code=204, responses=problems(404, 409))
def delete_model(caller: Annotated[Caller, needs("data:write")], model_id: str) -> None:
    """Remove a model that no job goes on to use, with its bytes."""
    with recorded(caller) as session:
        PRODUCTS.delete(session, caller, model_id)
