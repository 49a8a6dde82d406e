"""HTTP for the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from service.access.caller import Caller
from service.access.dependency import needs
from service.audit import service
from service.audit.schemas import AuditQuery, AuditRead, shown
from service.db import reading
from service.errors import problems
from service.paging import Page, cut, decode_position

router = APIRouter(prefix="/v1/audit", tags=["keys"])


@router.get("", responses=problems(422))
def list_audit(caller: Annotated[Caller, needs("admin")], query: Annotated[AuditQuery, Query()]) -> Page[AuditRead]:
    """Every request that changed something or would have, newest first: its key, address, time and status;
    and what was removed because its project keeps it no longer.

    Of requests with a wrong key, and of those that came too often, one a second is kept."""
    after = decode_position(query.cursor)
    with reading() as session:
        rows = service.page(session, query, after, query.limit + 1)
    entries, cursor = cut(rows, query.limit, lambda entry: (entry.at, entry.id))
    return Page(items=[shown(entry) for entry in entries], next_cursor=cursor)
