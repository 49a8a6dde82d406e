"""Checkpoints of version 0.1, read as today's: a job that was paused then goes on to the same bits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

State = dict[str, Any]

RENAMED_FIELDS = {
    "gradient_accumulation": "accumulate",
    "cache_teacher_outputs": "keep_teacher_outputs",
    "require_teacher": "require_teacher_accuracy",
}
"""Fields of a recipe by their names of today, and their names of then."""


@dataclass(frozen=True)
class Version1:
    """Reads checkpoints that version 0.1 wrote for a recipe."""

    recipe_digest: str
    """sha256, hex, of the recipe as that version wrote it."""
    validation_examples: int
    """Examples of the validation split: the best epoch was the one with most of them right."""

    @classmethod
    def of(cls, recipe_json: str, validation_examples: int) -> Version1:
        """The reader for the recipe whose deciding fields are given as JSON."""
        for name, old in RENAMED_FIELDS.items():
            recipe_json = recipe_json.replace(f'"{name}":', f'"{old}":')
        return cls(sha256(recipe_json.encode()).hexdigest(), validation_examples)

    def upgrade(self, state: State) -> State:
        """The state with the names of today."""
        trainer = state["trainer"]
        return {
            "section": state["section"],
            "trainer": {
                "step": trainer["step"],
                "micro_batches": trainer["parts"],
                "train_states": [self._train_state(each) for each in trainer["learners"]],
            },
            "teacher": state["taught"],
            "events": {key: _event(line) for key, line in state["said"].items()},
            **{name: state[name] for name in ("networks",) if name in state},
            **(
                {"students": {name: self._train_state(each) for name, each in state["students"].items()}}
                if "students" in state
                else {}
            ),
        }

    def _train_state(self, state: State) -> State:
        best = dict(state["best"])
        correct = best.pop("correct")
        value = correct / self.validation_examples if correct >= 0 else None
        renamed = {"tally": "term_sums"}
        return {renamed.get(name, name): each for name, each in state.items()} | {"best": {**best, "value": value}}


def _event(line: str) -> str:
    event = json.loads(line)
    return json.dumps({("network" if name == "student" else name): value for name, value in event.items()})
