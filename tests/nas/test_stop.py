"""The rule that ends a search whose front no longer grows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import UsageError
from nas.stop import Flat, parse_flat


def test_the_rule() -> None:
    rule = Flat(3, percent=1.0)
    assert not rule.reached([])
    assert not rule.reached([0.5, 0.5, 0.5])
    assert rule.reached([0.5, 0.5, 0.5, 0.505])
    assert not rule.reached([0.5, 0.5, 0.5, 0.506])
    assert not rule.reached([0.0, 0.0, 0.0, 0.0])  # there is no front yet
    assert not rule.reached([0.0, 0.5, 0.5, 0.5])


@given(st.lists(st.floats(0, 1), min_size=5, max_size=30).map(sorted), st.integers(1, 4))
def test_a_front_that_is_flat_for_long_is_flat_for_less(values: list[float], trials: int) -> None:
    if Flat(trials).reached(values):
        assert all(Flat(fewer).reached(values) for fewer in range(1, trials))


@pytest.mark.parametrize("text", ["", "0", "-3", "30:", "30:1", "x", "30:-1%", "1e9", "30:1%%"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="stop-when-flat"):
        parse_flat(text)
