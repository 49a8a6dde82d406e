"""HTTP for projects: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.body import described, sent
from service.errors import Forbidden, problems
from service.keys.caller import CallerDep
from service.paging import Page, PageQuery, cut, decode_position
from service.projects import service
from service.projects.schemas import ProjectCreate, ProjectRead, shown
from service.sessions import ReadingDep, TransactionDep

router = APIRouter(prefix="/v1/projects", tags=["projects"])


@router.get("", responses=problems(401, 422, 503))
def list_projects(caller: CallerDep, query: Annotated[PageQuery, Query()], session: ReadingDep) -> Page[ProjectRead]:
    """The key's own project; all projects for an admin, newest first."""
    rows = service.page(session, caller.sees, decode_position(query.cursor), query.limit + 1)
    projects, cursor = cut(rows, query.limit, lambda project: (project.created_at, project.id))
    return Page(items=[shown(project) for project in projects], next_cursor=cursor)


@router.post(
    "",
    status_code=201,
    responses=problems(400, 401, 403, 409, 413, 415, 422, 503),
    openapi_extra=described(ProjectCreate.model_json_schema()),
)
def create_project(
    caller: CallerDep, asked: Annotated[ProjectCreate, Depends(sent(ProjectCreate))], session: TransactionDep
) -> ProjectRead:
    """Make a project. Needs an admin key."""
    if not caller.admin:
        raise Forbidden("this key is no admin's; only an admin key can make a project")
    return shown(service.create(session, asked.name))
