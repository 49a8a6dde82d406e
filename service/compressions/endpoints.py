"""HTTP for the catalogue of compressions."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from service.access.caller import Caller
from service.access.dependency import needs
from service.catalogue import EntryRead
from service.compressions import service
from service.paging import Page

router = APIRouter(prefix="/v1/compressions", tags=["catalogue"])


@router.get("")
def list_compressions(caller: Annotated[Caller, needs("jobs:read")]) -> Page[EntryRead]:
    """Every step of compression that a recipe may name, with the JSON schema of its fields."""
    return Page(items=service.every())
