"""HTTP for keys: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.access.caller import Caller
from service.access.dependency import needs
from service.audit.service import recorded
from service.body import described, sent
from service.db import reading
from service.errors import problems
from service.keys import service
from service.keys.schemas import KeyCreate, KeyRead, NewKey, RotateQuery, shown
from service.paging import Page, PageQuery, cut, decode_position

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.get("", responses=problems(422))
def list_keys(caller: Annotated[Caller, needs("admin")], query: Annotated[PageQuery, Query()]) -> Page[KeyRead]:
    """All keys, newest first; also those that open nothing any more."""
    after = decode_position(query.cursor)
    with reading() as session:
        rows = service.page(session, after, query.limit + 1)
    shown_rows, cursor = cut(rows, query.limit, lambda row: (row[0].created_at, row[0].id))
    return Page(items=[shown(key, project) for key, project in shown_rows], next_cursor=cursor)


@router.post(
    "",
    status_code=201,
    responses=problems(404, 413, 415, 422),
    openapi_extra=described(KeyCreate.model_json_schema()),
)
def create_key(
    caller: Annotated[Caller, needs("admin")], asked: Annotated[KeyCreate, Depends(sent(KeyCreate))]
) -> NewKey:
    """Make a key. Its text is in the answer, this once."""
    with recorded(caller) as session:
        key, project, text = service.create(session, caller, asked)
        caller.note.add(key_id=key.id)
    return NewKey(**shown(key, project).model_dump(), key=text)


@router.post("/{key_id}/rotate", status_code=201, responses=problems(404, 409, 422))
def rotate_key(
    caller: Annotated[Caller, needs("admin")], key_id: str, query: Annotated[RotateQuery, Query()]
) -> NewKey:
    """Make a key's successor, which may do the same, and let the old one end after a grace time."""
    with recorded(caller) as session:
        key, project, text = service.rotate(session, key_id, query.grace_seconds)
        caller.note.add(successor=key.id)
    return NewKey(**shown(key, project).model_dump(), key=text)


@router.delete("/{key_id}", status_code=204, responses=problems(404))
def revoke_key(caller: Annotated[Caller, needs("admin")], key_id: str) -> None:
    """Revoke a key: from now on it opens nothing."""
    with recorded(caller) as session:
        service.revoke(session, key_id)
