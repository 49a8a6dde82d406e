"""Methods against values of the published implementations, in float64: value and gradient of every tensor.

RETORT_GOLDENS names another folder of cases to check against instead of tests/goldens/.
"""

import pytest

from tests.worker.methods.goldens import cases

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
