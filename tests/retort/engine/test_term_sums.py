"""Sums of terms, and the step at which one was no number."""

import math

import pytest
import torch

from retort.engine.term_sums import TermSums


def terms(labels: float, soft: float) -> dict[str, torch.Tensor]:
    return {"labels": torch.tensor(labels), "kd.soft": torch.tensor(soft)}


def test_means_are_those_of_the_steps_and_begin_anew():
    term_sums = TermSums()
    for share, values in ((1, (1.0, 2.0)), (0.25, (3.0, 8.0)), (0.75, (5.0, 0.0))):
        term_sums.add(terms(*values), share, 0)
    term_sums.steps = 2
    assert term_sums.means() == pytest.approx({"labels": (1 + 4.5) / 2, "kd.soft": 2.0, "loss": 4.75})
    term_sums.add(terms(1, 1), 1, 2)
    term_sums.steps = 1
    assert term_sums.means() == {"labels": 1, "kd.soft": 1, "loss": 2}


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([(1, 1), (1, math.inf), (math.nan, math.nan)], (7, ["kd.soft"])),
        ([(1, 1), (1, 1), (math.nan, math.inf)], (8, ["labels", "kd.soft"])),
        ([(1e308, 1e308)], (6, ["loss"])),
        ([(1, 1)], None),
        ([], None),
    ],
)
def test_the_first_wrong_step_and_its_terms_are_found_also_when_resumed(values, found):
    term_sums = TermSums()
    for number, (labels, soft) in enumerate(values):
        float64 = {name: value.double() for name, value in terms(0, 0).items()}
        float64["labels"] += labels
        float64["kd.soft"] += soft
        term_sums.add(float64, 1, 6 + number)
    assert term_sums.first_wrong() == found
    resumed = TermSums()
    resumed.load(term_sums.state())
    assert resumed.first_wrong() == found
