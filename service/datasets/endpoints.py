"""HTTP for data sets: what is offered, and with which fields."""

from __future__ import annotations

from fastapi import APIRouter

from service.catalogue import EntryRead
from service.datasets import service
from service.errors import problems
from service.keys.caller import CallerDep
from service.paging import Page

router = APIRouter(prefix="/v1/datasets/builtin", tags=["catalogue"])


@router.get("", responses=problems(401, 503))
def list_datasets(caller: CallerDep) -> Page[EntryRead]:
    """Every data set that a recipe may name, with the JSON schema of its fields."""
    return Page(items=service.every())
