"""HTTP for data sets: what is offered, and with which fields."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from service.catalogue import EntryRead
from service.datasets import service
from service.keys.caller import needs
from service.keys.service import Caller
from service.paging import Page

router = APIRouter(prefix="/v1/datasets/builtin", tags=["catalogue"])


@router.get("")
def list_datasets(caller: Annotated[Caller, needs("jobs:read")]) -> Page[EntryRead]:
    """Every data set that a recipe may name, with the JSON schema of its fields."""
    return Page(items=service.every())
