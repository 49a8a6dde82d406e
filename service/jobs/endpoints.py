"""HTTP for jobs: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response

from service.audit.service import recorded
from service.body import described, sent_json
from service.db import reading
from service.errors import problems
from service.jobs import service
from service.jobs.models import Wanted
from service.jobs.schemas import JobDetail, JobQuery, JobRead, Validation, shown
from service.keys.caller import needs
from service.keys.service import Caller
from service.paging import Page, cut, decode_position
from service.schemas import spelled

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

SentRecipe = Annotated[Any, Depends(sent_json)]
RECIPE = described({"$ref": "#/components/schemas/Recipe"})
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same key and body make one thing, however often they are sent.",
    ),
]


@router.post("", status_code=201, response_model=JobDetail, responses=problems(413, 415, 422), openapi_extra=RECIPE)
def create_job(
    caller: Annotated[Caller, needs("jobs:write")], body: SentRecipe, idempotency_key: IdempotencyKey = None
) -> Response:
    """Check a recipe and queue it."""
    with recorded(caller) as session:
        job, replayed = service.create(session, caller, body, idempotency_key)
        caller.note.tell(job_id=job.id)
        made = service.describe(session, job)
    replay = {"Idempotent-Replayed": "true"} if replayed else {}
    return spelled(made, 201, {"Location": f"/v1/jobs/{job.id}", **replay})


@router.post("/validate", responses=problems(413, 415, 422), openapi_extra=RECIPE)
def validate_job(caller: Annotated[Caller, needs("jobs:read")], body: SentRecipe) -> Validation:
    """Say all that is wrong with a recipe and what is odd, and give it resolved; nothing is queued."""
    return service.validate(caller, body)


@router.post("/estimate", status_code=202, responses=problems(413, 415, 422), openapi_extra=RECIPE)
def estimate_job(
    caller: Annotated[Caller, needs("jobs:write")],
    body: SentRecipe,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> JobDetail:
    """Run some real steps of a recipe and tell what all of it would take: a job of kind `estimate`, whose report says
    seconds, memory and sizes."""
    with recorded(caller) as session:
        job, replayed = service.estimate(session, caller, body, idempotency_key)
        caller.note.tell(job_id=job.id)
        made = service.describe(session, job)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return made


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
