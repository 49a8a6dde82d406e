"""Records of a running engine: one JSON object a line, on its standard output."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from retort.spec import Spec
from retort.storable import check_storable

LONGEST_NAME, LONGEST_LIST, LONGEST_TEXT = 100, 10_000, 10_000
"""Characters of a name, of a list of names in one text, and of a sentence."""
MOST_VALUES = 1000
"""Numbers by name of one record."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME), AfterValidator(check_storable)]
Names = Annotated[str, StringConstraints(max_length=LONGEST_LIST), AfterValidator(check_storable)]
Text = Annotated[str, StringConstraints(max_length=LONGEST_TEXT), AfterValidator(check_storable)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Kind = Literal["phase", "resolved", "metrics", "evaluation", "report", "warning", "failed"]


class Event(Spec):
    """One record of the engine. The same run writes the same records, resumed or not; its reader adds the times."""

    line: Literal["event"] = "event"
    kind: Kind
    phase: Name
    """Stretch of the job: preparing, teaching, a method's own phase, distilling, compressing, exporting,
    evaluating."""
    network: Name | None = None
    """The network that it is about; null when it is about the job."""
    epoch: Count | None = None
    """Epochs finished in this phase."""
    step: Count = 0
    """Optimizer steps done in this phase."""
    values: Annotated[dict[Name, float], Field(max_length=MOST_VALUES)] = {}
    """Numbers by name, e.g. `loss`, `kd.soft`, `validation.accuracy`."""
    text: Text | None = None
    """A sentence for people."""
    data: Annotated[dict[str, Any], AfterValidator(check_storable)] | None = None
    """Anything larger: the resolved recipe, the report."""

    @property
    def key(self) -> str:
        """Unique a job: a record that a resumed run writes again bears the key it had before."""
        return f"{self.phase}/{self.network or ''}/{self.kind}/{self.step}" + (
            f"/{self.text}" if self.kind == "warning" else ""
        )


class Progress(Spec):
    """The state of a running engine; the newest replaces the one before, none is stored."""

    line: Literal["progress"] = "progress"
    phase: Name
    network: Names | None = None
    """The network being trained; several names joined by a comma when they share a pass."""
    epoch: Count | None = None
    """Epochs finished in this phase."""
    epochs: Count | None = None
    step: Count | None = None
    """Optimizer steps done in this phase."""
    steps: Count | None = None
    examples_per_second: float | None = None
    seconds_left: float | None = None
    """Estimated, for this phase."""
    loss: float | None = None
    """Sum of all terms in the last step that was read."""
    metric: Name | None = None
    """Name of the task's headline metric."""
    value: float | None = None
    """Its value on the validation split, after the last evaluation."""


class Checkpoint(Spec):
    """A checkpoint has been written whole; the file lies in the run's directory."""

    line: Literal["checkpoint"] = "checkpoint"
    file: str
    phase: Name
    step: Count
