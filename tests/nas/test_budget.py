"""Budgets: what users type, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nas.budget import (
    QUANTITIES,
    Budget,
    format_quantity,
    parse_budget,
    parse_budgets,
    rounded_up,
    shown_in,
)
from nas.errors import NasError, NotFoundError, UsageError
from nas.target_names import PER_TARGET


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("5ms", Budget("latency", 5.0)),
        ("0.5 ms", Budget("latency", 0.5)),
        ("500us", Budget("latency", 0.5)),
        ("500\u00b5s", Budget("latency", 0.5)),
        ("500\u03bcs", Budget("latency", 0.5)),  # the Greek letter
        ("energy<=3\u03bcJ", Budget("energy", 3e-3)),
        ("latency<=5ms", Budget("latency", 5.0)),
        ("latency < 2s", Budget("latency", 2000.0)),
        ("params<=6M", Budget("params", 6e6)),
        ("params=150k", Budget("params", 150e3)),
        ("memory<=320KiB", Budget("memory", 320 * 1024)),
        ("weights<=1.2MB", Budget("weights", 1.2e6)),
        ("MACs<=1e6", Budget("macs", 1e6)),
        ("latency<=0.5*max", Budget("latency", 0.5, relative=True)),
        ("energy<=20mJ", Budget("energy", 20.0)),
        ("20mJ", Budget("energy", 20.0)),
        ("energy <= 250 nJ", Budget("energy", 250e-6)),
        ("energy<=3µJ", Budget("energy", 3e-3)),
        ("energy<=0.5J", Budget("energy", 500.0)),
        ("energy<=0.5*max", Budget("energy", 0.5, relative=True)),
    ],
)
def test_reads_what_users_type(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot read"),
        ("5", "no unit"),
        ("fast", "cannot read"),
        ("latency<=5", "needs a unit"),
        ("latency<=5KiB", "no unit 'KiB'"),
        ("5MB", "does not say what it limits"),
        ("-5ms", "more than zero"),
        ("0ms", "more than zero"),
        ("1e999ms", "more than zero"),
        ("latency>=5ms", "no upper limit"),
        ("speed<=5ms", "nothing known"),
        ("energy<=20", "Give one of nj, uj"),
        ("energy<=20W", "no unit 'W'"),
        ("params<=0.5ms*max", "has no unit"),
        ("1.2.3ms", "cannot read the number"),
        ("0,5ms", "decimal point"),
        ("1,000ms", "decimal point"),
    ],
)
def test_refuses_with_a_hint(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        parse_budget(text)
    assert caught.value.hint


def test_a_quantity_is_limited_once() -> None:
    assert [b.quantity for b in parse_budgets(["params<=6M", "5ms"])] == ["latency", "params"]
    with pytest.raises(UsageError, match="twice"):
        parse_budgets(["5ms", "latency<=6ms"])


TWO = ("a100", "pi-4.2")


def test_a_budget_may_name_its_target() -> None:
    assert parse_budgets(["a100:5ms"], ["a100"]) == parse_budgets(["5ms"])  # there is one
    found = parse_budgets(["params<=6M", "pi-4.2 : 20 ms", "a100:latency<=5ms"], TWO)
    assert [str(b) for b in found] == ["a100:latency<=5ms", "pi-4.2:latency<=20ms", "params<=6M"]
    assert [b.column for b in found][1:] == ["latency_ms_upper@pi-4.2", "params"]


@pytest.mark.parametrize(
    ("texts", "error", "says"),
    [
        (["t4:5ms"], NotFoundError, "no target of this search 't4'"),
        ([":5ms"], NotFoundError, "no target of this search ''"),
        (["a100:params<=6M"], UsageError, "the same on every target. Write params<=6M alone"),
        (["a100:5ms", "6ms"], UsageError, "limited twice on a100"),
        (["a100:"], UsageError, "cannot read"),
        (["a100:pi-4.2:5ms"], UsageError, "cannot read"),
    ],
)
def test_budgets_on_targets_are_refused_with_a_hint(
    texts: list[str], error: type[NasError], says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        parse_budgets(texts, TWO)
    assert caught.value.hint


@given(
    budgets=st.dictionaries(st.sampled_from(sorted(QUANTITIES)), st.integers(1, 900)),
    which=st.none() | st.sampled_from(TWO),
)
def test_a_budget_without_a_name_is_of_every_target(
    budgets: dict[str, int], which: str | None
) -> None:
    units = {"latency": "ms", "energy": "mJ", "memory": "B", "weights": "B"}
    texts = [f"{q}<={n}{units.get(q, '')}" for q, n in budgets.items()]
    if which is not None:
        texts = [f"{which}:{t}" if t.startswith(PER_TARGET) else t for t in texts]
    found = parse_budgets(texts, TWO)
    for quantity, limit in budgets.items():
        mine = [b for b in found if b.quantity == quantity]
        on = (TWO if which is None else (which,)) if quantity in PER_TARGET else (None,)
        assert tuple(b.target for b in mine) == on
        assert {b.limit for b in mine} == {limit}
    assert parse_budgets([str(b) for b in found], TWO) == found


@given(
    quantity=st.sampled_from(sorted(QUANTITIES)),
    limit=st.floats(0.01, 900).map(lambda x: float(f"{x:.3g}")),
    relative=st.booleans(),
)
def test_text_reads_back(quantity: str, limit: float, relative: bool) -> None:
    whole = quantity not in ("latency", "energy") and not relative
    budget = Budget(quantity, round(limit) + 1.0 if whole else limit, relative)
    assert parse_budget(str(budget)).limit == pytest.approx(budget.limit, rel=1e-2)
    assert parse_budget(str(budget)).quantity == quantity


@given(quantity=st.sampled_from(sorted(QUANTITIES)), exponent=st.floats(-5, 10))
def test_what_a_refusal_proposes_is_met(quantity: str, exponent: float) -> None:
    whole = quantity not in ("latency", "energy")
    least = float(round(10**exponent) + 1) if whole else 10**exponent
    proposed = parse_budget(str(Budget(quantity, rounded_up(quantity, least)))).limit
    assert least <= proposed <= 1.02 * least + whole


@pytest.mark.parametrize(
    ("quantity", "value", "unit", "text"),
    [
        ("latency", 0.9995, " ms", "1 ms"),  # what three digits would round to 1000 us
        ("latency", 0.99949, " us", "999 us"),
        ("energy", 999.5, " J", "1 J"),
        ("energy", 999.49, " mJ", "999 mJ"),
        ("energy", 1e-9, " nJ", "0.001 nJ"),
        ("memory", 0.9995 * 2**20, " MiB", "1 MiB"),
        ("memory", 0.9994 * 2**20, " KiB", "1023 KiB"),
        ("params", 999_500, "M", "1M"),
        ("params", 999_499, "k", "999k"),
    ],
)
def test_the_unit_of_a_figure_just_below_the_next(
    quantity: str, value: float, unit: str, text: str
) -> None:
    assert shown_in(quantity, value)[0] == unit
    assert format_quantity(quantity, value) == text


@given(quantity=st.sampled_from(sorted(QUANTITIES)), exponent=st.floats(-5, 10))
@example(quantity="latency", exponent=2.9999)
@example(quantity="memory", exponent=6.00999)
def test_a_figure_is_shown_without_an_exponent(quantity: str, exponent: float) -> None:
    assert "e+" not in format_quantity(quantity, 10**exponent)


def test_a_share_resolves_against_the_largest() -> None:
    assert Budget("latency", 0.5, relative=True).resolved(8.0) == Budget("latency", 4.0)
    assert Budget("latency", 0.5).resolved(8.0) == Budget("latency", 0.5)
