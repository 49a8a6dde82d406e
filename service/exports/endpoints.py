"""HTTP for the catalogue of exports."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from service.access.caller import Caller
from service.access.dependency import needs
from service.catalogue import EntryRead
from service.exports import service
from service.paging import Page

router = APIRouter(prefix="/v1/exports", tags=["catalogue"])


@router.get("")
def list_exports(caller: Annotated[Caller, needs("jobs:read")]) -> Page[EntryRead]:
    """Every export that a recipe may name, with the JSON schema of its fields."""
    return Page(items=service.every())
