"""HTTP for jobs: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from service.access.caller import Caller
from service.access.dependency import needs
from service.audit.service import recorded
from service.db import reading
from service.errors import problems
from service.jobs import service
from service.jobs.models import Wanted
from service.jobs.schemas import JobDetail, JobQuery, JobRead, shown
from service.paging import Page, cut, decode_position
from service.schemas import spelled

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.get("", response_model=Page[JobRead], responses=problems(422))
def list_jobs(caller: Annotated[Caller, needs("jobs:read")], query: Annotated[JobQuery, Query()]) -> Response:
    """The project's jobs, newest first."""
    after = decode_position(query.cursor)
    with reading() as session:
        rows = service.page(session, caller, query, after, query.limit + 1)
    jobs, cursor = cut(rows, query.limit, lambda job: (job.created_at, job.id))
    return spelled(Page[JobRead](items=[shown(job) for job in jobs], next_cursor=cursor))


@router.get("/{job_id}", response_model=JobDetail, responses=problems(404))
def read_job(caller: Annotated[Caller, needs("jobs:read")], job_id: str) -> Response:
    """One job; also says why it waits."""
    with reading() as session:
        found = service.describe(session, service.read(session, caller, job_id))
    return spelled(found)


@router.post("/{job_id}/cancel", responses=problems(404, 409))
def cancel_job(caller: Annotated[Caller, needs("jobs:write")], job_id: str) -> JobDetail:
    """End a waiting job at once; ask the worker of a running one to end it. Asking twice does no harm."""
    return _wish(caller, job_id, Wanted.cancel)


@router.post("/{job_id}/pause", responses=problems(404, 409))
def pause_job(caller: Annotated[Caller, needs("jobs:write")], job_id: str) -> JobDetail:
    """Hold a waiting job back; ask the worker of a running one to leave a checkpoint and take another job. Asking
    twice does no harm."""
    return _wish(caller, job_id, Wanted.pause)


@router.post("/{job_id}/resume", responses=problems(404, 409))
def resume_job(caller: Annotated[Caller, needs("jobs:write")], job_id: str) -> JobDetail:
    """Queue a paused job again; it goes on from its checkpoint. Of a job that is not paused, nothing changes."""
    return _wish(caller, job_id, Wanted.run)


@router.post("/{job_id}/stop", responses=problems(404, 409))
def stop_job(caller: Annotated[Caller, needs("jobs:write")], job_id: str) -> JobDetail:
    """End a job early and keep the best students so far: it succeeds with them. Before there is one, it is cancelled.

    Asking twice does no harm."""
    return _wish(caller, job_id, Wanted.stop)


@router.delete("/{job_id}", status_code=204, responses=problems(404, 409))
def delete_job(caller: Annotated[Caller, needs("jobs:write")], job_id: str) -> None:
    """Remove a job that has ended, with its events and artifacts."""
    with recorded(caller) as session:
        service.delete(session, caller, job_id)


def _wish(caller: Caller, job_id: str, wanted: Wanted) -> JobDetail:
    with recorded(caller) as session:
        return service.describe(session, service.wish(session, caller, job_id, wanted))
