"""The spec of a job of kind `check`: a network that a user brought is built and tried. No torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from retort.datasets import AnyDataset
from retort.recipe import Deadline, Seed
from retort.spec import Spec
from retort.tasks import TaskName
from retort.user_model import ModelId

REPORT = "report.json"
"""Name of the artifact that tells what was found."""
LONGEST_SECONDS = 3600.0
"""How long a check may last unless the spec says otherwise."""


class Check(Spec):
    """A network that a user brought, built from its file and run: alone when it is taken in, or on labelled images."""

    check_version: Literal[1] = 1
    """Version of this contract."""
    task: TaskName = "classification"
    """Task of the network."""
    model: ModelId
    """The network."""
    dataset: AnyDataset | None = None
    """Labelled images to try it on; null tries whether it can be built and run at all, which takes it in."""
    images: int = Field(default=2000, ge=1, le=1_000_000)
    """How many images of the validation part are looked at; all of a smaller one."""
    seed: Seed = 0
    """Rules which images these are."""
    deadline: Deadline = Deadline(seconds=LONGEST_SECONDS)
    """How long it may take."""
