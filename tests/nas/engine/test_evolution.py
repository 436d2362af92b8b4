"""Once-for-all's evolution: its generations, its operators, and tries that end."""

import numpy as np
import pytest
from search_problems import ACCURACY, BITS_PER_BYTE, Layered, as_stored, same, search

from nas.engine.evolution import (
    POPULATION,
    OfaEvolution,
    mutation_blocks,
    ranking,
)
from nas.engine.told import Told
from search_spaces.choices import Choice, ChoiceSet, Condition

# Seed 5 of Layered(9, budget_ms=12): the first ten, and ten of the second generation.
GOLDEN = """
    4b0a128e 464beb74 75dec39b 8f165148 bb4f6e97 d193c22c 961ac8fe e9b4a1eb 2944511f d574634e
    5a8c71f4 f9d40edc 146c8cce ff1678bd 84ef4b51 f1dd1c2b e5bd4a79 c3b59ba4 8b0dc590 66566b98
"""


@pytest.fixture(scope="module")
def whole():
    """Into the third generation."""
    return search(Layered(9, budget_ms=12.0), "ofa-evolution", 210)


def test_a_place_is_a_block_and_a_depth_is_alone():
    when = Condition("stages.0.depth", frozenset({2}))
    choices = ChoiceSet(
        (
            Choice("resolution", (128, 160)),
            Choice("width", (1, 2)),
            Choice("stages.0.depth", (1, 2)),
            Choice("stages.0.blocks.0.kernel", (3, 5)),
            Choice("stages.0.blocks.0.expand", (3, 4)),
            Choice("stages.0.blocks.1.kernel", (3, 5), when),
            Choice("stages.0.blocks.1.expand", (3, 4), when),
        )
    )
    block, rates = mutation_blocks(choices)
    assert block.tolist() == [0, 1, 2, 3, 3, 4, 4]
    assert rates.tolist() == [0.5, 0.1, 0.1, 0.1, 0.1]


def test_the_best_are_the_front_then_its_least_crowded():
    values = np.array([[1.0, 4.0], [4.0, 1.0], [2.0, 2.5], [2.1, 2.4], [5.0, 5.0], [1.0, 5.0]])
    order = ranking(values).tolist()
    assert set(order[:4]) == {0, 1, 2, 3}
    assert order[:2] == [0, 1]
    assert order[-1] == 4
    assert ranking(np.array([[3.0], [1.0], [2.0]])).tolist() == [1, 2, 0]
    assert ranking(np.empty((0, 2))).tolist() == []


def test_generations_are_random_then_half_mutations_half_crossovers(whole):
    kinds = [t.origin["kind"] for t in whole]
    assert kinds[:100] == ["random"] * 100
    assert kinds[100:200] == ["mutation"] * 50 + ["crossover"] * 50
    assert [t.origin["generation"] for t in whole] == [0] * 100 + [1] * 100 + [2] * 10
    assert len({t.key for t in whole}) == 210
    assert all(t.values["latency_ms"] <= 12.0 for t in whole)


def test_later_generations_are_better():
    toy = Layered(9, budget_ms=12.0, objectives=(ACCURACY,))
    accuracy = [t.values["accuracy"] for t in search(toy, "ofa-evolution", 300)]
    medians = [np.median(accuracy[i : i + 100]) for i in (0, 100, 200)]
    assert medians == sorted(medians)
    assert max(accuracy[200:]) > max(accuracy[:100])


@pytest.mark.parametrize("cut", [0, 1, 57, 99, 100, 101, 149, 150, 151, 199, 200, 205])
def test_a_study_cut_after_any_trial_goes_on_as_it_would_have(whole, cut):
    history = [as_stored(t) for t in whole[:cut]]
    resumed = search(Layered(9, budget_ms=12.0), "ofa-evolution", cut + 2, history=history)
    assert same(resumed[cut], whole[cut])
    assert same(resumed[cut + 1], whole[cut + 1])
    assert resumed[cut].origin == whole[cut].origin


def test_golden_trajectory(whole):
    assert [t.key[:8] for t in whole[:10] + whole[145:155]] == GOLDEN.split()


def test_parents_are_the_best_quarter_of_all_generations_before(whole):
    toy = Layered(9, budget_ms=12.0, objectives=(BITS_PER_BYTE,))
    genomes = np.stack([t.genome for t in whole[:150]])
    bits = 8 * (1 - toy.accuracy(genomes))
    bits[7] = np.nan
    told = Told(genomes, bits[:, None], np.full(150, -1.0), np.zeros(150))
    parents = OfaEvolution(toy.problem, 0)._parents(told, POPULATION)
    assert len(parents) == 25
    best = np.sort(np.delete(bits[:100], 7))[:25]
    assert np.allclose(np.sort(8 * (1 - toy.accuracy(parents))), best)


@pytest.mark.parametrize("mutates", [True, False])
def test_a_child_that_cannot_meet_the_budget_is_led_back_or_given_up(mutates):
    toy = Layered(9, budget_ms=5.0)
    sampler = OfaEvolution(toy.problem, 0)
    parents = sampler.candidates.feasible(25, np.random.default_rng(0))
    seen: set[bytes] = set()
    child = sampler._child(parents, mutates, seen, np.random.default_rng(1))
    assert child is not None
    assert toy.latency_ms(child[None])[0] <= 5.0
    # Nothing but the parents meets a budget that is set at the cheapest of them.
    only = parents[np.argmin(toy.latency_ms(parents))][None]
    hopeless = OfaEvolution(Layered(9, budget_ms=0.1).problem, 0)
    assert hopeless._child(only, True, seen, np.random.default_rng(1)) is None


def test_a_mutation_redraws_a_block_whole():
    toy = Layered(9)
    sampler = OfaEvolution(toy.problem, 0)
    parent = toy.choices.extreme(largest=True)
    changed = np.zeros(len(toy.choices))
    for seed in range(300):
        child = sampler._child(parent, True, set(), np.random.default_rng(seed))
        changed += child != parent[0]
    # The first layer always exists: its width leaves 3 of 4 redraws, in one block of ten.
    assert 0.03 < changed[1] / 300 < 0.13
    assert 0.03 < changed[0] / 300 < 0.13
