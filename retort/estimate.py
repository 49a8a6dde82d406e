"""The spec of a job of kind `estimate`: what a recipe would take, from some of its real steps. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from retort.recipe import Deadline, Recipe
from retort.spec import Spec

REPORT = "report.json"
"""Name of the artifact that tells what was found."""


class Estimate(Spec):
    """A recipe of which each kind of step is run some times; nothing is trained to its end, and nothing is kept."""

    estimate_version: Literal[1] = 1
    """Version of this contract."""
    recipe: Recipe
    """As it would be stored."""
    steps: int = Field(default=20, ge=3, le=1000)
    """How many steps of each kind are timed, after the first three."""
    deadline: Deadline = Deadline(seconds=3600.0)
    """How long it may take."""
