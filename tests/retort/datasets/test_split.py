"""Shares in whole numbers, and orders that no library decides."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from retort.datasets._split import apportion, drawn_order


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.data())
def test_shares_add_up_and_none_is_a_whole_away_from_its_due(counts: list[int], data: st.DataObject) -> None:
    total = data.draw(st.integers(0, sum(counts)))
    shares = apportion(total, counts)
    assert sum(shares) == total
    for share, count in zip(shares, counts, strict=True):
        assert abs(share - total * count / sum(counts)) < 1
        assert share <= count


def test_the_first_gets_what_is_left_at_a_tie() -> None:
    assert apportion(4, [10, 10, 10]) == (2, 1, 1)


@given(st.integers(0, 200), st.integers(0, 2**63))
def test_an_order_holds_each_number_once(count: int, seed: int) -> None:
    assert sorted(drawn_order(count, seed, "any")) == list(range(count))


def test_an_order_depends_on_seed_and_purpose_and_is_the_same_for_ever() -> None:
    assert drawn_order(6, 0, "class ash") == [5, 2, 0, 4, 3, 1]
    assert drawn_order(50, 0, "a") != drawn_order(50, 1, "a")
    assert drawn_order(50, 0, "a") != drawn_order(50, 0, "b")
