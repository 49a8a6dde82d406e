"""HTTP for projects: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from service.access.caller import Caller
from service.access.dependency import needs
from service.audit.service import recorded
from service.body import described, sent
from service.db import reading
from service.errors import problems
from service.paging import Page, PageQuery, cut, decode_position
from service.projects import service
from service.projects.schemas import ProjectChange, ProjectCreate, ProjectRead, shown

router = APIRouter(prefix="/v1/projects", tags=["projects"])


@router.get("", responses=problems(422))
def list_projects(
    caller: Annotated[Caller, needs("jobs:read")], query: Annotated[PageQuery, Query()]
) -> Page[ProjectRead]:
    """The key's own project; all projects for an admin, newest first."""
    after = decode_position(query.cursor)
    with reading() as session:
        rows = service.page(session, caller.sees, after, query.limit + 1)
    projects, cursor = cut(rows, query.limit, lambda project: (project.created_at, project.id))
    return Page(items=[shown(project) for project in projects], next_cursor=cursor)


@router.post(
    "",
    status_code=201,
    responses=problems(409, 413, 415, 422),
    openapi_extra=described(ProjectCreate.model_json_schema()),
)
def create_project(
    caller: Annotated[Caller, needs("admin")], asked: Annotated[ProjectCreate, Depends(sent(ProjectCreate))]
) -> ProjectRead:
    """Make a project. Needs an admin key."""
    with recorded(caller) as session:
        project = service.create(session, asked.name)
        caller.note.add(project_id=project.id)
        return shown(project)


@router.patch(
    "/{project_id}",
    responses=problems(404, 413, 415, 422),
    openapi_extra=described(ProjectChange.model_json_schema()),
)
def change_project(
    caller: Annotated[Caller, needs("admin")],
    project_id: str,
    asked: Annotated[ProjectChange, Depends(sent(ProjectChange))],
) -> ProjectRead:
    """Change a project's limits. Needs an admin key."""
    with recorded(caller) as session:
        return shown(service.limit(session, project_id, asked.model_dump(exclude_unset=True)))
