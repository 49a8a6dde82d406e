"""Shares of the long tests: all of them are in one, and the same ones wherever they are chosen."""

import pytest

from tests.parts import share

NAMES = [f"tests/test_{file}.py::test_{number}" for file in "abc" for number in range(9)]


@pytest.mark.parametrize("parts", [1, 4, 16, 100])
def test_each_test_is_in_one_share(parts):
    shares = [share(NAMES, number, parts) for number in range(1, parts + 1)]
    assert sorted(name for names in shares for name in names) == sorted(NAMES)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_order_in_which_tests_are_found_changes_no_share():
    assert share(NAMES, 2, 4) == share(reversed(NAMES), 2, 4)
