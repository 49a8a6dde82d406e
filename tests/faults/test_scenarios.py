"""No job is lost and none is run twice, whatever dies. `-m long` runs the long forms, which take many minutes.

A run that failed is repeated by `python -m tests.faults.scenario --seed ...`; its plan is in what it printed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.faults.scenario import SLOWLY, Plan, explain, run

SEED = int(os.environ.get("FAULTS_SEED", "1"))

QUICKLY: dict[str, Any] = {"calm_seconds": (0.1, 0.6), "send_seconds": 0.1}
SHORT = (
    Plan(jobs=20, workers=4, seed=SEED, troubles=15, **QUICKLY),
    Plan(jobs=10, workers=2, seed=SEED, pair="embedded", apart=False, steps=(10, 20), troubles=10, **QUICKLY),
)
"""Each trouble once."""
LONG = (
    Plan(jobs=200, workers=4, seed=SEED),
    Plan(jobs=200, workers=2, seed=SEED, pair="embedded", apart=False),
    Plan(jobs=200, workers=4, seed=SEED, engine="real", **SLOWLY),
)


def name_of(plan: Plan) -> str:
    return f"{plan.pair}-{plan.engine}-{plan.jobs}"


@pytest.mark.server
@pytest.mark.parametrize("plan", SHORT, ids=name_of)
def test_every_job_ends_once_and_tells_the_truth(plan: Plan, folder: Path) -> None:
    outcome = run(plan, folder)
    assert not outcome.violations, explain(plan, outcome)


@pytest.mark.long
@pytest.mark.longest
@pytest.mark.server
@pytest.mark.parametrize("plan", LONG, ids=name_of)
def test_two_hundred_jobs_end_once_and_tell_the_truth(plan: Plan, folder: Path) -> None:
    outcome = run(plan, folder)
    print(outcome.figures)
    assert not outcome.violations, explain(plan, outcome)
