"""HTTP for keys: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.body import described, sent
from service.db import reading, transaction
from service.errors import problems
from service.keys import service
from service.keys.caller import CallerDep
from service.keys.schemas import KeyCreate, KeyMade, KeyRead, shown
from service.paging import Page, PageQuery, cut, decode_position

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.get("", responses=problems(401, 422, 503))
def list_keys(caller: CallerDep, query: Annotated[PageQuery, Query()]) -> Page[KeyRead]:
    """The project's keys, newest first; all keys for an admin."""
    after = decode_position(query.cursor)
    with reading() as session:
        rows = service.page(session, caller, after, query.limit + 1)
    shown_rows, cursor = cut(rows, query.limit, lambda row: (row[0].created_at, row[0].id))
    return Page(items=[shown(key, project) for key, project in shown_rows], next_cursor=cursor)


@router.post(
    "",
    status_code=201,
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
    openapi_extra=described(KeyCreate.model_json_schema()),
)
def create_key(caller: CallerDep, asked: Annotated[KeyCreate, Depends(sent(KeyCreate))]) -> KeyMade:
    """Make a key. Its text is in the answer, this once."""
    with transaction() as session:
        key, project, text = service.create(session, caller, asked)
    return KeyMade(**shown(key, project).model_dump(), key=text)


@router.delete("/{key_id}", status_code=204, responses=problems(401, 404, 503))
def revoke_key(caller: CallerDep, key_id: str) -> None:
    """Revoke a key: from now on it opens nothing."""
    with transaction() as session:
        service.revoke(session, caller, key_id)
