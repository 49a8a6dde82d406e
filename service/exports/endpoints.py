"""HTTP for exports: what is offered, and with which fields."""

from __future__ import annotations

from fastapi import APIRouter

from service.catalogue import EntryRead
from service.errors import problems
from service.exports import service
from service.keys.caller import CallerDep
from service.paging import Page

router = APIRouter(prefix="/v1/exports", tags=["catalogue"])


@router.get("", responses=problems(401, 503))
def list_exports(caller: CallerDep) -> Page[EntryRead]:
    """Every export that a recipe may name, with the JSON schema of its fields."""
    return Page(items=service.every())
