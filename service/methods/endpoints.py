"""HTTP for methods: what is offered, and where each comes from."""

from __future__ import annotations

from fastapi import APIRouter

from service.errors import problems
from service.keys.caller import CallerDep
from service.methods import service
from service.methods.schemas import MethodRead
from service.paging import Page

router = APIRouter(prefix="/v1/methods", tags=["catalogue"])


@router.get("", responses=problems(401, 503))
def list_methods(caller: CallerDep) -> Page[MethodRead]:
    """Every method, with its formula, its paper and the JSON schema of its fields."""
    return Page(items=service.every())


@router.get("/{name}", responses=problems(401, 404, 503))
def read_method(caller: CallerDep, name: str) -> MethodRead:
    """One method."""
    return service.read(name)
