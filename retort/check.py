"""The spec of a job of kind `check`: a user model is built and tried. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from retort.datasets import AnyDataset
from retort.recipe import Deadline, Seed
from retort.spec import Spec
from retort.tasks import TaskName
from retort.user_model import ModelId

REPORT = "report.json"
"""Name of the artifact that holds the findings."""
LONGEST_SECONDS = 3600.0
"""Seconds that a check may last unless the spec gives others."""


class Check(Spec):
    """A user model, built from its file and run: alone when it is made of an upload, or on labelled images."""

    check_version: Literal[1] = 1
    """Version of this contract."""
    task: TaskName = "classification"
    """Task of the network."""
    model: ModelId
    """The network."""
    dataset: AnyDataset | None = None
    """Labelled images to try it on; null tries only whether it can be built and run."""
    images: int = Field(default=2000, ge=1, le=1_000_000)
    """Number of images of the validation split to try it on; of a smaller split, all."""
    seed: Seed = 0
    """Rules the choice of these images."""
    deadline: Deadline = Deadline(seconds=LONGEST_SECONDS)
    """Limit of its time."""
