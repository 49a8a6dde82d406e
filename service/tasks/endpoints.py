"""HTTP for the catalogue of tasks."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter

from service.access.caller import Caller
from service.access.dependency import needs
from service.errors import problems
from service.paging import Page
from service.tasks import service
from service.tasks.schemas import TaskRead

router = APIRouter(prefix="/v1/tasks", tags=["catalogue"])


@router.get("")
def list_tasks(caller: Annotated[Caller, needs("jobs:read")]) -> Page[TaskRead]:
    """Every task that a recipe may name, with its headline metric and the readings that its networks offer."""
    return Page(items=service.every())


@router.get("/{name}", responses=problems(404))
def read_task(caller: Annotated[Caller, needs("jobs:read")], name: str) -> TaskRead:
    """One task."""
    return service.read(name)
