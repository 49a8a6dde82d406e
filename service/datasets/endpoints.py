"""HTTP for data sets: built-in ones and user data sets."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response

from service.access.caller import Caller
from service.access.dependency import needs
from service.audit.service import recorded
from service.body import described, sent_json
from service.catalogue import EntryRead
from service.datasets import service
from service.datasets.products import PRODUCTS
from service.datasets.schemas import DatasetDetail, DatasetRead, detail, shown
from service.db import reading
from service.errors import problems
from service.idempotency import IdempotencyKey
from service.paging import Page, PageQuery, cut, decode_position

router = APIRouter(prefix="/v1/datasets")

SentSpec = Annotated[Any, Depends(sent_json)]
INGEST = described({"$ref": "#/components/schemas/Ingest"})


@router.get("/builtin", tags=["catalogue"])
def list_builtin_datasets(caller: Annotated[Caller, needs("jobs:read")]) -> Page[EntryRead]:
    """Every data set that a recipe may name, with the JSON schema of its fields."""
    return Page(items=service.every())


@router.post("", status_code=202, tags=["datasets"], responses=problems(413, 415, 422), openapi_extra=INGEST)
def create_dataset(
    caller: Annotated[Caller, needs("data:write")],
    body: SentSpec,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> DatasetDetail:
    """Take in images as a data set: a job looks at each, makes the splits that are missing, and stores them."""
    with recorded(caller) as session:
        (dataset, job), replayed = service.create(session, caller, body, idempotency_key)
        caller.note.add(dataset_id=dataset.id)
        made = detail(dataset, job)
    response.headers["Location"] = made.links.self
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return made


@router.get("", tags=["datasets"], responses=problems(422))
def list_datasets(
    caller: Annotated[Caller, needs("jobs:read")], query: Annotated[PageQuery, Query()]
) -> Page[DatasetRead]:
    """The project's data sets, newest first."""
    after = decode_position(query.cursor)
    with reading() as session:
        rows = PRODUCTS.page(session, caller, after, query.limit + 1)
    some, cursor = cut(rows, query.limit, lambda row: (row[0].created_at, row[0].id))
    return Page(items=[shown(*row) for row in some], next_cursor=cursor)


@router.get("/{dataset_id}", tags=["datasets"], responses=problems(404))
def read_dataset(caller: Annotated[Caller, needs("jobs:read")], dataset_id: str) -> DatasetDetail:
    """One data set, with the report on its images."""
    with reading() as session:
        return detail(*PRODUCTS.read(session, caller, dataset_id))


@router.delete("/{dataset_id}", status_code=204, tags=["datasets"], responses=problems(404, 409))
def delete_dataset(caller: Annotated[Caller, needs("data:write")], dataset_id: str) -> None:
    """Remove a data set that no job goes on to use, with its bytes."""
    with recorded(caller) as session:
        PRODUCTS.delete(session, caller, dataset_id)
