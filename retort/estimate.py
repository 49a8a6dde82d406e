"""The spec of a job of kind `estimate`: time and memory of a recipe, from some of its real steps. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from retort.recipe import Deadline, Recipe
from retort.spec import Spec

REPORT = "report.json"
"""Name of the artifact that holds the findings."""


class Estimate(Spec):
    """A recipe of which each kind of step is run some times; nothing is trained to its end, and no network is left."""

    estimate_version: Literal[1] = 1
    """Version of this contract."""
    recipe: Recipe
    """As it would be stored."""
    steps: int = Field(default=20, ge=3, le=1000)
    """Number of steps of each kind that are timed, after the first three."""
    deadline: Deadline = Deadline(seconds=3600.0)
    """Limit of its time."""
