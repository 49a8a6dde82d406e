"""HTTP for the catalogue of methods."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from service.access.caller import Caller
from service.access.dependency import needs
from service.errors import problems
from service.methods import service
from service.methods.schemas import MethodRead
from service.paging import Page

router = APIRouter(prefix="/v1/methods", tags=["catalogue"])


@router.get("")
def list_methods(caller: Annotated[Caller, needs("jobs:read")]) -> Page[MethodRead]:
    """Every method, with its formula, its paper and the JSON schema of its fields."""
    return Page(items=service.every())


@router.get("/{name}", responses=problems(404))
def read_method(caller: Annotated[Caller, needs("jobs:read")], name: str) -> MethodRead:
    """One method."""
    return service.read(name)
