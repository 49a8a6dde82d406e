"""Records of a running engine: one JSON object a line, on its standard output."""

from __future__ import annotations

from typing import Any, Literal

from retort.spec import Spec

Kind = Literal["phase", "resolved", "metrics", "evaluation", "report", "warning", "failed"]


class Event(Spec):
    """One record of the engine. The same run writes the same records, resumed or not; its reader adds the times."""

    line: Literal["event"] = "event"
    kind: Kind
    phase: str
    """Stretch of the job: preparing, teaching, a method's own phase, distilling, compressing, exporting,
    evaluating."""
    network: str | None = None
    """The network that it is about; null when it is about the job."""
    epoch: int | None = None
    """Epochs finished in this phase."""
    step: int = 0
    """Optimizer steps done in this phase."""
    values: dict[str, float] = {}
    """Numbers by name, e.g. `loss`, `kd.soft`, `validation.accuracy`."""
    text: str | None = None
    """A sentence for people."""
    data: dict[str, Any] | None = None
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
    phase: str
    network: str | None = None
    """The network being trained; several names joined by a comma when they share a pass."""
    epoch: int | None = None
    """Epochs finished in this phase."""
    epochs: int | None = None
    step: int | None = None
    """Optimizer steps done in this phase."""
    steps: int | None = None
    examples_per_second: float | None = None
    seconds_left: float | None = None
    """Estimated, for this phase."""
    loss: float | None = None
    """Sum of all terms in the last step that was read."""
    metric: str | None = None
    """Name of the task's headline metric."""
    value: float | None = None
    """Its value on the validation split, after the last evaluation."""


class Checkpoint(Spec):
    """A checkpoint has been written whole; the file lies in the run's directory."""

    line: Literal["checkpoint"] = "checkpoint"
    file: str
    phase: str
    step: int
