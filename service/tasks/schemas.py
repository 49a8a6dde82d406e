"""Tasks as the API shows them."""

from __future__ import annotations

from typing import Any

from service.schemas import ResponseModel


class TaskRead(ResponseModel):
    """One task that networks can learn."""

    name: str
    """Value of `task` in a recipe."""
    title: str
    """A few words: the target of one example."""
    summary: str
    """A description in one sentence or two."""
    headline: str
    """The metric by which the best epoch is chosen."""
    more_is_better: bool
    """Whether a larger value of it is better."""
    columns: tuple[str, ...]
    """The metrics that tables show, the headline metric first."""
    reads: tuple[str, ...]
    """Everything that methods may read of its networks; a method that reads no more serves it."""
    label_fields: tuple[str, ...]
    """Fields of a student's `labels` that it knows, besides `weight`."""
    facts: dict[str, Any]
    """JSON schema of the facts that it needs of a data set."""
