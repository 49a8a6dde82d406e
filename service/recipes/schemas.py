"""Recipes as the API shows them validated."""

from __future__ import annotations

from typing import Annotated, Any

from retort.recipe import Recipe
from retort.tasks import AnyFacts
from service.errors import FieldError
from service.jobs.schemas import JobDetail
from service.schemas import DescribedBy, ResponseModel

StoredRecipe = Annotated[dict[str, Any], DescribedBy(Recipe)]
"""Never validated again: it stays readable when a method's fields have changed since."""


class CreatedJob(JobDetail):
    """A job that was just made of a recipe."""

    warnings: list[str]
    """Warnings about the recipe, in sentences."""


class Validation(ResponseModel):
    """The findings on a recipe without running it."""

    valid: bool
    """Whether the same body would make a job now."""
    problems: list[FieldError]
    """The problems, a hundred at most."""
    warnings: list[str]
    """Warnings, in sentences."""
    resolved: StoredRecipe | None
    """The recipe as it would be stored, without `auto` but for what only a worker knows; null when it is wrong."""
    sharing: list[list[str]]
    """Names of the students that share one pass over the data and one of the teacher, a group each."""
    facts: AnyFacts | None
    """The facts of the data set; null when only a worker knows them."""
