"""HTTP for recipes: parse, call the service, return."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response

from service.access.caller import Caller
from service.access.dependency import needs
from service.audit.service import recorded
from service.body import described, sent_json
from service.errors import problems
from service.idempotency import IdempotencyKey
from service.jobs.service import describe
from service.recipes import service
from service.recipes.schemas import CreatedJob, Validation
from service.schemas import spelled

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

SentRecipe = Annotated[Any, Depends(sent_json)]
RECIPE = described({"$ref": "#/components/schemas/Recipe"})


@router.post("", status_code=201, response_model=CreatedJob, responses=problems(413, 415, 422), openapi_extra=RECIPE)
def create_job(
    caller: Annotated[Caller, needs("jobs:write")], body: SentRecipe, idempotency_key: IdempotencyKey = None
) -> Response:
    """Validate a recipe and queue it."""
    with recorded(caller) as session:
        job, replayed, warnings = service.create(session, caller, body, idempotency_key)
        caller.note.add(job_id=job.id)
        made = CreatedJob(**dict(describe(session, job)), warnings=list(warnings))
    replay = {"Idempotent-Replayed": "true"} if replayed else {}
    return spelled(made, 201, {"Location": f"/v1/jobs/{job.id}", **replay})


@router.post("/validate", responses=problems(413, 415, 422), openapi_extra=RECIPE)
def validate_job(caller: Annotated[Caller, needs("jobs:read")], body: SentRecipe) -> Validation:
    """Validate a recipe: all problems, warnings, and the resolved recipe; nothing is queued."""
    return service.validate(caller, body)


@router.post("/estimate", status_code=202, responses=problems(413, 415, 422), openapi_extra=RECIPE)
def estimate_job(
    caller: Annotated[Caller, needs("jobs:write")],
    body: SentRecipe,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> CreatedJob:
    """Run some real steps of a recipe and estimate the rest: a job of kind `estimate`, whose report holds seconds,
    memory and sizes."""
    with recorded(caller) as session:
        job, replayed, warnings = service.estimate(session, caller, body, idempotency_key)
        caller.note.add(job_id=job.id)
        made = CreatedJob(**dict(describe(session, job)), warnings=list(warnings))
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return made
