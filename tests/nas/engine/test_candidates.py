import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search_problems import Layered

from nas.engine.candidates import (
    Candidates,
    corners,
    enumerate_all,
    identities,
    identity,
    neighbours,
    spread,
    unique,
)
from nas.engine.inner import search
from search_spaces.choices import Choice, ChoiceSet, Condition


@st.composite
def choice_sets(draw):
    choices = []
    for i in range(draw(st.integers(1, 5))):
        values = tuple(range(draw(st.integers(1, 4))))
        when = None
        if choices and draw(st.booleans()):
            parent = draw(st.sampled_from(choices))
            when = Condition(parent.name, frozenset(draw(st.sets(st.sampled_from(parent.values)))))
        choices.append(Choice(f"c{i}", values, when, draw(st.booleans())))
    return ChoiceSet(tuple(choices))


@settings(max_examples=60)
@given(choice_sets())
def test_enumeration_holds_every_candidate_once(choices):
    genomes = enumerate_all(choices)
    assert len(genomes) == choices.cardinality() == len({identity(g) for g in genomes})
    assert (choices.canonical(genomes) == genomes).all()
    assert (choices.validate(genomes) == genomes).all()


@settings(max_examples=30)
@given(choice_sets(), st.integers(0, 100))
def test_draws_are_canonical_and_valid(choices, seed):
    for genomes in (corners(choices), spread(choices, 21, np.random.default_rng(seed))):
        assert (choices.canonical(choices.validate(genomes)) == genomes).all()


@settings(max_examples=30)
@given(choice_sets(), st.integers(0, 30), st.integers(0, 100))
def test_identities_are_those_of_each_genome(choices, n, seed):
    genomes = choices.sample(n, np.random.default_rng(seed))
    assert identities(genomes) == [identity(genome) for genome in genomes]


def test_unique_keeps_the_order_of_first_appearance():
    rows = np.array([[2, 1], [0, 0], [2, 1], [1, 1]])
    assert unique(rows).tolist() == [[2, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("layers", [3, 12])
def test_design_holds_both_ends_and_a_spread(layers):
    toy = Layered(layers)
    design = Candidates(toy.problem, 3).design(12)
    latency = toy.latency_ms(design)
    assert len(unique(design)) == 12
    ends = toy.latency_ms(corners(toy.choices))
    assert latency[0] == ends.max() == latency.max()
    assert latency[1] == ends.min() == latency.min()
    assert np.diff(np.sort(latency)).max() < 0.35 * np.ptp(latency)


@pytest.mark.parametrize(("layers", "budget_ms"), [(3, 2.8), (12, 10.0), (12, 7.6)])
def test_a_tight_budget_is_met_by_all_that_is_drawn(layers, budget_ms):
    toy = Layered(layers, budget_ms)
    candidates = Candidates(toy.problem, 0)
    design = candidates.design(12)
    assert len(design) >= 3
    assert (toy.latency_ms(design) <= budget_ms).all()
    seen = {identity(g) for g in design}
    drawn = candidates.unseen(seen, 1)
    assert drawn is not None
    assert identity(drawn) not in seen
    assert toy.latency_ms(drawn[None, :])[0] <= budget_ms


def test_a_list_of_genomes_is_the_whole_space():
    toy = Layered(12)
    listed = unique(toy.choices.sample(40, np.random.default_rng(0)))
    candidates = Candidates(dataclasses.replace(toy.problem, listed=listed), 0)
    known = {identity(g) for g in listed}
    assert {identity(g) for g in candidates.feasible(100, candidates.rng(1))} == known
    assert {identity(g) for g in candidates.design(10)} <= known
    assert candidates.unseen(known, 1) is None


def test_the_nearest_of_a_list_has_most_genes_of_a_genome():
    toy = Layered(12)
    listed = unique(toy.choices.sample(60, np.random.default_rng(0)))
    candidates = Candidates(dataclasses.replace(toy.problem, listed=listed), 0)
    for genome in toy.choices.sample(20, np.random.default_rng(1)):
        seen = set(identities(listed[:30]))
        found = candidates.nearest(genome, seen)
        assert identity(found) not in seen
        assert (found != genome).sum() == (listed[30:] != genome).sum(axis=1).min()
    assert (candidates.nearest(listed[7], set()) == listed[7]).all()
    assert candidates.nearest(listed[7], set(identities(listed))) is None


@pytest.mark.parametrize("layers", [3, 12])
def test_an_impossible_budget_has_no_candidates(layers):
    candidates = Candidates(Layered(layers, 0.1).problem, 0)
    assert candidates.unseen(set(), 1) is None
    assert len(candidates.design(12)) == 0


def test_inner_search_finds_the_front_of_a_known_function():
    toy = Layered(12)

    def score(genomes):
        objectives = np.stack([-toy.accuracy(genomes), toy.latency_ms(genomes)], axis=1)
        return objectives, toy.latency_ms(genomes) / 20 - 1

    start = toy.choices.sample(20, np.random.default_rng(0))
    found = search(toy.choices, score, 2, start=start, seed=1)
    again = search(toy.choices, score, 2, start=start, seed=1)
    assert (found.genomes == again.genomes).all()
    assert len(unique(found.genomes)) == len(found.genomes) > 1500
    assert (toy.choices.canonical(found.genomes) == found.genomes).all()
    met = found.genomes[found.violation <= 0]
    drawn = toy.choices.sample(len(found.genomes), np.random.default_rng(1))
    drawn = drawn[toy.latency_ms(drawn) <= 20]
    assert toy.accuracy(met).max() > toy.accuracy(drawn).max()


@settings(max_examples=40)
@given(choice_sets(), st.integers(0, 100))
def test_neighbours_differ_in_one_gene_and_what_depends_on_it(choices, seed):
    genome = choices.sample(1, np.random.default_rng(seed))
    found = neighbours(choices, genome)
    assert (choices.canonical(choices.validate(found)) == found).all()
    assert len({identity(g) for g in found}) == len(found)
    every = enumerate_all(choices)
    expected = set()
    for gene, choice in enumerate(choices.choices):
        for value in range(len(choice.values)):
            far = choice.ordinal and abs(value - genome[0, gene]) > 1
            if choices.active(genome)[0, gene] and value != genome[0, gene] and not far:
                other = genome.copy()
                other[0, gene] = value
                expected.add(identity(choices.canonical(other)[0]))
    assert {identity(g) for g in found} == expected <= {identity(g) for g in every}
