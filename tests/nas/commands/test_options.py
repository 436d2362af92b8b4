"""Times as users type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.commands.options import seconds
from nas.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600}


@given(st.integers(1, 2000), st.sampled_from("smhSMH"))
def test_a_time_is_so_many_of_its_unit(number: int, unit: str) -> None:
    assert seconds(f"{number}{unit}") == number * UNITS[unit.lower()]


@pytest.mark.parametrize("text", ["", "s", "2", "0s", "-1m", "nans", "infh", "1e9h", "2d", "m2"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot read the time"):
        seconds(text)
