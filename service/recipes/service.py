"""Recipes: validate one, have it run, or estimate what it would take."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from retort.estimate import Estimate
from retort.kinds import DISTILL, ESTIMATE
from retort.recipe import Recipe
from retort.validation import Problem, disk_bytes
from service.access.caller import Caller
from service.errors import MOST_ERRORS, Invalid
from service.job_creation.service import Submission, enqueue, made_before
from service.jobs.models import JobRow
from service.jobs.uses import hold
from service.recipes.schemas import Validation
from service.recipes.validation import as_sent, check_recipe
from service.usage.service import measure


def validate(caller: Caller, body: Any) -> Validation:
    """All problems, warnings, and the recipe as it would be stored; queues nothing."""
    found = check_recipe(caller.project_id, body)
    return Validation(
        valid=not found.problems,
        problems=found.problems[:MOST_ERRORS],
        warnings=list(found.warnings),
        resolved=found.resolved.model_dump(mode="json") if found.resolved else None,
        sharing=[list(group) for group in found.sharing],
        facts=found.facts,
    )


def create(
    session: Session, caller: Caller, body: Any, idempotency_key: str | None
) -> tuple[JobRow, bool, tuple[str, ...]]:
    """A new queued job, or the one that the same key and body made before, whether it is that one, and the recipe's
    warnings.

    Raises Invalid with all that is wrong. The session takes no connection before the recipe has been validated, which
    may look through a folder of images.
    """
    validation = check_recipe(caller.project_id, body)
    measure(caller.project_id)
    sent = Submission(DISTILL, body, idempotency_key)
    made = made_before(session, caller, sent)
    if made is not None:
        return made, True, validation.warnings
    if validation.problems:
        raise Invalid.of(validation.problems)
    recipe = validation.resolved
    if recipe is None:
        raise RuntimeError("a recipe without problems was not resolved")
    held = hold_sent(session, caller.project_id, sent, recipe)
    job, replayed = enqueue(
        session,
        caller,
        sent,
        recipe,
        name=recipe.name,
        tags=recipe.tags,
        priority=recipe.priority,
        needs_gpu=recipe.needs.gpu,
        needs_memory_bytes=int(recipe.needs.memory_gib * 2**30),
        needs_disk_bytes=disk_bytes(recipe) + held,
    )
    return job, replayed, validation.warnings


def estimate(
    session: Session, caller: Caller, body: Any, idempotency_key: str | None
) -> tuple[JobRow, bool, tuple[str, ...]]:
    """A queued job that estimates a recipe, or the one that the same key and body made before, whether it is that one,
    and the recipe's warnings. Raises Invalid with all that is wrong."""
    validation = check_recipe(caller.project_id, body)
    sent = Submission(ESTIMATE, body, idempotency_key)
    made = made_before(session, caller, sent)
    if made is not None:
        return made, True, validation.warnings
    recipe = validation.resolved
    if recipe is None:
        raise Invalid.of(validation.problems)
    job, replayed = enqueue(
        session,
        caller,
        sent,
        Estimate(recipe=recipe),
        name=f"estimates {recipe.name}".strip()[:200],
        needs_gpu=recipe.needs.gpu,
        needs_memory_bytes=int(recipe.needs.memory_gib * 2**30),
        needs_disk_bytes=hold_sent(session, caller.project_id, sent, recipe),
    )
    return job, replayed, validation.warnings


def hold_sent(session: Session, project_id: str, sent: Submission, recipe: Recipe) -> int:
    """Keep what a recipe uses from being deleted until the transaction ends; gives the bytes that a worker fetches.
    Raises Invalid, pointing into what was sent, for what was deleted since the recipe was validated."""
    try:
        return hold(session, project_id, DISTILL, recipe.model_dump(mode="json"))
    except Invalid as refusal:
        gone = [Problem(error.pointer or "", error.detail) for error in refusal.errors]
        raise Invalid.of(as_sent(gone, sent.body)) from None
