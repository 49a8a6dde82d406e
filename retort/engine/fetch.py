"""Fetching of published data and weights, before any byte of a user is read: no job has a network later."""

from __future__ import annotations

from retort.architectures import ARCHITECTURES
from retort.engine.interrupt import Impossible
from retort.recipe import Recipe
from retort.spec import Spec


def fetch(spec: Spec) -> None:
    """Have the data set and the weights of a recipe here, or those that a spec of another kind names.

    Raises Impossible, DatasetError, or Unreachable.
    """
    recipe = getattr(spec, "recipe", spec)
    dataset = getattr(recipe, "dataset", None)
    if dataset is not None:
        dataset.fetch()
    if not isinstance(recipe, Recipe):
        return
    for network in (recipe.teacher, *recipe.students):
        if network is not None and network.weights == "published":
            try:
                ARCHITECTURES[network.architecture].fetch(network.architecture)
            except LookupError as error:
                raise Impossible(str(error)) from error
