"""HTTP for projects: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.body import described, sent
from service.db import reading, transaction
from service.errors import Forbidden, problems
from service.keys.caller import CallerDep
from service.keys.service import Caller
from service.paging import Page, PageQuery, cut, decode_position
from service.projects import service
from service.projects.schemas import ProjectChange, ProjectCreate, ProjectRead, shown

router = APIRouter(prefix="/v1/projects", tags=["projects"])


@router.get("", responses=problems(401, 422, 503))
def list_projects(caller: CallerDep, query: Annotated[PageQuery, Query()]) -> Page[ProjectRead]:
    """The key's own project; all projects for an admin, newest first."""
    after = decode_position(query.cursor)
    with reading() as session:
        rows = service.page(session, caller.sees, after, query.limit + 1)
    projects, cursor = cut(rows, query.limit, lambda project: (project.created_at, project.id))
    return Page(items=[shown(project) for project in projects], next_cursor=cursor)


@router.post(
    "",
    status_code=201,
    responses=problems(400, 401, 403, 409, 413, 415, 422, 503),
    openapi_extra=described(ProjectCreate.model_json_schema()),
)
def create_project(caller: CallerDep, asked: Annotated[ProjectCreate, Depends(sent(ProjectCreate))]) -> ProjectRead:
    """Make a project. Needs an admin key."""
    _insist_on_admin(caller, "make a project")
    with transaction() as session:
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
) -> ProjectRead:
    """Change a project's limits. Needs an admin key."""
    _insist_on_admin(caller, "change a project")
    with transaction() as session:
        return shown(service.limit(session, project_id, asked.max_running))


def _insist_on_admin(caller: Caller, what: str) -> None:
    if not caller.admin:
        raise Forbidden(f"this key is no admin's; only an admin key can {what}")
