"""HTTP for architectures: what a teacher or a student can be."""

from __future__ import annotations

from fastapi import APIRouter

from service.architectures import service
from service.architectures.schemas import ArchitectureRead
from service.errors import problems
from service.keys.caller import CallerDep
from service.paging import Page

router = APIRouter(prefix="/v1/architectures", tags=["catalogue"])


@router.get("", responses=problems(401, 503))
def list_architectures(caller: CallerDep) -> Page[ArchitectureRead]:
    """Every architecture, with its card."""
    return Page(items=service.every())


@router.get("/{name}", responses=problems(401, 404, 503))
def read_architecture(caller: CallerDep, name: str) -> ArchitectureRead:
    """One architecture."""
    return service.read(name)
