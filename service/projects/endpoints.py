"""HTTP for projects: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.body import described, sent
from service.errors import Forbidden, problems
from service.keys.caller import CallerDep
from service.keys.service import Caller
from service.paging import Page, PageQuery, cut, decode_position
from service.projects import service
from service.projects.schemas import ProjectChange, ProjectCreate, ProjectRead, shown
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
    _insist_on_admin(caller, "make a project")
    return shown(service.create(session, asked.name))


@router.patch(
    "/{project_id}",
    responses=problems(400, 401, 403, 404, 413, 415, 422, 503),
    openapi_extra=described(ProjectChange.model_json_schema()),
)
def change_project(
    caller: CallerDep,
    project_id: str,
    asked: Annotated[ProjectChange, Depends(sent(ProjectChange))],
    session: TransactionDep,
) -> ProjectRead:
    """Change a project's limits. Needs an admin key."""
    _insist_on_admin(caller, "change a project")
    return shown(service.limit(session, project_id, asked.max_running))


def _insist_on_admin(caller: Caller, what: str) -> None:
    if not caller.admin:
        raise Forbidden(f"this key is no admin's; only an admin key can {what}")
