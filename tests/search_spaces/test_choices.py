"""Choices: activity, canonical form, round trips, exact counting."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_profiles.errors import NotFoundError, UsageError
from search_spaces.choices import Choice, ChoiceSet, Condition


@st.composite
def choice_sets(draw: st.DrawFn) -> ChoiceSet:
    """Small random trees of choices."""
    choices: list[Choice] = []
    for i in range(draw(st.integers(1, 6))):
        values = tuple(range(draw(st.integers(1, 3))))
        active = None
        if choices and draw(st.booleans()):
            parent = draw(st.sampled_from(choices))
            allowed = draw(st.sets(st.sampled_from(parent.values), min_size=1))
            active = Condition(parent.name, frozenset(allowed))
        choices.append(Choice(f"c{i}", values, active))
    return ChoiceSet(tuple(choices))


def everything(choices: ChoiceSet) -> np.ndarray:
    return np.array(list(itertools.product(*(range(s) for s in choices.sizes))), dtype=np.int64)


@settings(max_examples=60, deadline=None)
@given(choices=choice_sets())
def test_cardinality_counts_the_distinct_canonical_genomes(choices: ChoiceSet) -> None:
    distinct = np.unique(choices.canonical(everything(choices)), axis=0)
    assert choices.cardinality() == len(distinct)
    assert len(set(choices.keys(distinct))) == len(distinct)
    assert len(np.unique(choices.one_hot(distinct), axis=0)) == len(distinct)


@settings(max_examples=60, deadline=None)
@given(choices=choice_sets(), seed=st.integers(0, 1000))
def test_decode_and_encode_are_inverse(choices: ChoiceSet, seed: int) -> None:
    genomes = choices.sample(8, np.random.default_rng(seed))
    assert (choices.canonical(genomes) == genomes).all()
    for genome in genomes:
        assert (choices.encode(choices.decode(genome)) == genome).all()


@settings(max_examples=60, deadline=None)
@given(choices=choice_sets(), seed=st.integers(0, 1000))
def test_inactive_genes_change_nothing(choices: ChoiceSet, seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, choices.sizes, size=(8, len(choices)))
    canonical = choices.canonical(raw)
    assert (choices.active(raw) == choices.active(canonical)).all()
    assert choices.keys(raw) == choices.keys(canonical)
    assert (choices.one_hot(raw) == choices.one_hot(canonical)).all()
    assert (choices.one_hot(raw).sum(1) == choices.active(raw).sum(1)).all()


DEPTH = Choice("depth", (1, 2))
HEADS = Choice("heads", (2, 4), Condition("depth", frozenset({2})))
TWO = ChoiceSet((DEPTH, HEADS))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"depth": 2}, "heads is missing"),
        ({"depth": 1, "heads": 2}, "not active"),
        ({"depth": 3}, "cannot be 3"),
    ],
)
def test_encode_refuses(values: dict[str, int | float | str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        TWO.encode(values)


def test_unknown_choice_proposes_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="'depth'"):
        TWO.encode({"dept": 1})


@pytest.mark.parametrize("genomes", [[[0, 0, 0]], [[2, 0]], [[-1, 0]]])
def test_genomes_of_another_space_are_refused(genomes: list[list[int]]) -> None:
    with pytest.raises(UsageError, match="another space"):
        TWO.validate(np.array(genomes))


@pytest.mark.parametrize(
    "choices",
    [
        (DEPTH, DEPTH),
        (Choice("a", (1, 1)),),
        (Choice("a", ()),),
        (HEADS, DEPTH),
        (DEPTH, Choice("b", (1,), Condition("depth", frozenset({9})))),
    ],
)
def test_inconsistent_choices_are_refused(choices: tuple[Choice, ...]) -> None:
    with pytest.raises(ValueError, match=r"twice|no values|depends"):
        ChoiceSet(choices)


def test_large_spaces_are_counted_exactly() -> None:
    import search_spaces

    # 3 widths; 12 to 14 layers of (2 heads x 4 granularities)
    count = search_spaces.get("vit", "tiny").choices.cardinality()
    assert count == 3 * (8**12 + 8**13 + 8**14)
