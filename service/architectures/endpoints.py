"""HTTP for the catalogue of architectures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from service.access.caller import Caller
from service.access.dependency import needs
from service.architectures import service
from service.architectures.schemas import ArchitectureRead
from service.errors import problems
from service.paging import Page

router = APIRouter(prefix="/v1/architectures", tags=["catalogue"])


@router.get("")
def list_architectures(caller: Annotated[Caller, needs("jobs:read")]) -> Page[ArchitectureRead]:
    """Every architecture, with its card."""
    return Page(items=service.every())


@router.get("/{name}", responses=problems(404))
def read_architecture(caller: Annotated[Caller, needs("jobs:read")], name: str) -> ArchitectureRead:
    """One architecture."""
    return service.read(name)
