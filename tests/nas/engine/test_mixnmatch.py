"""Mix'n'Match: granularities rise with depth, by two neighbours at most, over all costs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_problems import ACCURACY, LATENCY, Layered, as_stored, same, search

import search_spaces
from nas.candidate import CandidateSpace
from nas.engine.candidates import identity
from nas.engine.mixnmatch import MixNMatch, ordered_ladders
from nas.engine.problem import Problem
from nas.errors import BudgetError, UsageError
from search_spaces.choices import Choice, ChoiceSet

# Seed 5 of Layered(5, budget_ms=9).
GOLDEN = """
    b0a92a5c 4da55d04 5445a0aa 7ca8d8ca 8308c4ee 3ab97035 b52d3dec fc7e0bd5 4001385a d54d3d1c
    b722e028 821aa6cc e4c9f93b 2fe53415 74e7811d 6ea23cbf 768825a1 e2da58fe 7637bd2f 741be99e
"""


def problem_of(choices, violation=None):
    return Problem(
        choices,
        (ACCURACY, LATENCY),
        costs=lambda g: {"latency_ms": 1.0 + (g * np.arange(1, len(choices) + 1)).sum(axis=1)},
        violation=violation or (lambda g: np.full(len(g), -1.0)),
        features=lambda g: np.zeros((len(g), 0)),
    )


def rungs_of(choices, genome):
    """Values of each ladder's active genes."""
    active = choices.active(genome[None, :])[0]
    return [genome[genes][active[genes]] for genes in ordered_ladders(choices)]


def is_mixed(values):
    return (np.diff(values) >= 0).all() and np.ptp(values) <= 1 if len(values) else True


def test_ladders_are_the_ordered_choices_that_repeat_over_layers():
    choices = ChoiceSet(
        (
            Choice("depth", (1, 2)),
            Choice("layers.0.ffn", ("S", "M")),
            Choice("layers.0.qkv", ("fp32", "int8"), ordinal=False),
            Choice("layers.1.ffn", ("S", "M")),
            Choice("layers.1.qkv", ("fp32", "int8"), ordinal=False),
            Choice("layers.2.ffn", ("S", "M", "L")),
            Choice("left.ffn", ("S", "M")),
        )
    )
    assert [genes.tolist() for genes in ordered_ladders(choices)] == [[1, 3]]


@pytest.mark.parametrize("family", ["vit", "matlm", "ofa", "lighthubert"])
def test_every_family_with_nested_layers_is_mixed(family):
    space = search_spaces.get(family)
    choices = CandidateSpace(space, ("fp32", "int8")).choices
    sampler = MixNMatch(problem_of(choices), 0)
    pool = sampler._pool(0)
    assert len(pool.genomes) >= 10
    assert (choices.canonical(choices.validate(pool.genomes)) == pool.genomes).all()
    for genome in pool.genomes[::40]:
        assert all(is_mixed(values) for values in rungs_of(choices, genome))
    largest = choices.extreme(largest=True)[0]
    ordered = np.array([c.ordinal for c in choices.choices])
    assert (pool.genomes[:, ordered] == largest[ordered]).all(axis=1).any()


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 6),
    st.floats(1.0, 25.0),
    st.integers(0, 1000),
)
def test_draws_are_mixed_canonical_and_within_the_budget(layers, budget_ms, seed):
    toy = Layered(layers, budget_ms)
    pool = MixNMatch(toy.problem, seed)._pool(0)
    assert (toy.choices.canonical(pool.genomes) == pool.genomes).all()
    assert (toy.latency_ms(pool.genomes) <= budget_ms).all()
    assert len({identity(g) for g in pool.genomes}) == len(pool.genomes)
    for genome in pool.genomes[:: max(len(pool.genomes) // 50, 1)]:
        assert all(is_mixed(values) for values in rungs_of(toy.choices, genome))


def test_trials_spread_over_what_the_budget_leaves():
    toy = Layered(9, budget_ms=20.0)
    trials = search(toy, "mixnmatch", 40)
    assert all(is_mixed(v) for t in trials for v in rungs_of(toy.choices, t.genome))
    latency = np.sort([t.values["latency_ms"] for t in trials])
    assert latency[-1] > 0.95 * 20
    draws = toy.choices.sample(5000, np.random.default_rng(0))
    assert latency[0] < toy.latency_ms(draws).min() + 1
    assert np.diff(latency).max() < 0.15 * 20
    mixed = [t for t in trials if t.origin["kind"] == "mixed"]
    assert 10 <= len(mixed) <= 20
    # As in the paper: the depth is full and one scheme serves all layers.
    assert all(t.genome[0] == 3 and np.ptp(t.genome[2::2]) == 0 for t in mixed)


def test_a_study_cut_after_any_trial_goes_on_as_it_would_have():
    toy = Layered(5, budget_ms=9.0)
    whole = search(toy, "mixnmatch", 24)
    for cut in range(24):
        resumed = search(toy, "mixnmatch", cut + 1, history=[as_stored(t) for t in whole[:cut]])
        assert same(resumed[-1], whole[cut]), f"after {cut} trials"
        assert resumed[-1].origin == whole[cut].origin


def test_golden_trajectory():
    trials = search(Layered(5, budget_ms=9.0), "mixnmatch", 20)
    assert [t.key[:8] for t in trials] == GOLDEN.split()


def test_seeds_differ():
    a, b = (search(Layered(9), "mixnmatch", 12, seed=seed) for seed in (0, 1))
    assert [t.key for t in a] != [t.key for t in b]


def test_what_is_not_mixed_follows_where_all_that_is_mixed_is_known():
    toy = Layered(2)
    trials = search(toy, "mixnmatch", 400)
    assert len(trials) == len({t.key for t in trials}) == toy.choices.cardinality()
    first = next(t.number for t in trials if t.origin["kind"] == "random")
    assert all(is_mixed(v) for t in trials[:first] for v in rungs_of(toy.choices, t.genome))
    assert {t.origin["kind"] for t in trials[first:]} == {"random"}
    for cut in range(first - 1, len(trials), 20):
        resumed = search(toy, "mixnmatch", cut + 1, history=[as_stored(t) for t in trials[:cut]])
        assert same(resumed[-1], trials[cut]), f"after {cut} trials"


def test_a_budget_that_nothing_meets_is_an_error():
    with pytest.raises(BudgetError, match="larger budget"):
        search(Layered(9, budget_ms=0.01), "mixnmatch", 5)


def test_a_space_without_nested_layers_is_refused():
    choices = ChoiceSet((Choice("width", (1, 2)), Choice("layers.0.ffn", ("S", "M"))))
    with pytest.raises(UsageError, match="nested sizes in every layer"):
        MixNMatch(problem_of(choices), 0)
