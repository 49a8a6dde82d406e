"""Methods against values of the published implementations, in float64: value and gradient of every tensor.

RETORT_GOLDENS names another folder of cases to check against instead of tests/goldens/.
"""

import json
from pathlib import Path

import pytest

from retort.methods import CONFORMANCE
from tests.retort.methods.goldens import cases

OURS = Path(__file__).parents[2] / "goldens"

CASES = cases()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.left_out])
def test_value_and_gradient_are_the_published_ones(name):
    for what, difference, tolerated, _ in CASES[name].differences():
        assert difference <= tolerated, what


def test_what_is_left_out_says_why(capsys):
    reasons = {name: case.left_out for name, case in CASES.items() if case.left_out}
    with capsys.disabled():
        for name, reason in reasons.items():
            print(f"\n{name} is not reproduced: {reason}")
    assert len(reasons) < len(CASES)


def test_the_catalogue_says_what_is_checked_and_how_far_off_it_is():
    recorded = {
        entry["case"]: (method, entry)
        for method, entries in json.loads(CONFORMANCE.read_text()).items()
        for entry in entries
    }
    ours = {name: case for name, case in cases(OURS).items() if not case.left_out}
    assert recorded.keys() == ours.keys(), "python -m tests.retort.methods.goldens writes it anew"
    for name, (method, entry) in recorded.items():
        assert (method, entry["source"]) == (ours[name].method, ours[name].source)
        assert ours[name].worst() <= entry["worst_difference"], name
