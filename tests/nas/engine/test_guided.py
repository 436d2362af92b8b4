"""The guided sampler: its batches, what it learns from, and what it says of its choices."""

import dataclasses

import numpy as np
import pytest
from search_problems import LATENCY, Layered, absent, as_stored, same, search

from nas.engine import guided
from nas.engine.candidates import enumerate_all, identity
from nas.engine.pareto import hypervolume, non_dominated
from nas.engine.problem import Objective
from nas.executors.executor import EvaluationFailed


@pytest.fixture
def taught(monkeypatch):
    """Of each fit of a predictor: its rows, and how many of their responses are 1."""
    fits = []

    class Spy(guided.AccuracyPredictor):
        def fit(self, rows, y, noise=None):
            fits.append((len(rows), int(sum(y == 1.0))))
            return super().fit(rows, y, noise)

    monkeypatch.setattr(guided, "AccuracyPredictor", Spy)
    return fits


def deepest_fails(toy):
    def evaluate(genome, number, goal):
        if genome[0] == 3:
            raise EvaluationFailed("out of memory")
        return toy.evaluate(genome, number, goal)

    return evaluate


def test_a_large_space_is_resumed_in_the_middle_of_a_batch():
    toy = Layered(9)
    whole = search(toy, "guided", 22)
    assert {t.origin["kind"] for t in whole} >= {"design", "exploit"}
    for cut in (5, 16, 21):
        resumed = search(toy, "guided", cut + 1, history=[as_stored(t) for t in whole[:cut]])
        assert same(resumed[-1], whole[cut]), f"after {cut} trials"


def test_batches_grow_and_are_resumed_in_the_middle(monkeypatch):
    monkeypatch.setattr(guided, "BATCH_SHARE", 0.5)
    toy = Layered(9)
    whole = search(toy, "guided", 40)
    starts = sorted({t.origin["fitted_trials"] for t in whole if "fitted_trials" in t.origin})
    assert starts[1] - starts[0] == guided.BATCH < starts[2] - starts[1] == starts[1] // 2
    for cut in (starts[2] - 1, starts[2], starts[2] + 5):
        resumed = search(toy, "guided", cut + 1, history=[as_stored(t) for t in whole[:cut]])
        assert same(resumed[-1], whole[cut]), f"after {cut} trials"
        assert resumed[-1].origin == whole[cut].origin


def test_the_guided_sampler_says_why():
    trial = search(Layered(3), "guided", 16)[-1]
    assert trial.origin["kind"] in ("exploit", "explore")
    assert abs(trial.origin["predicted"]["accuracy"] - trial.values["accuracy"]) < 0.1
    assert trial.origin["std"]["accuracy"] > 0


def test_guided_needs_fewer_evaluations():
    toy = Layered(10)
    share = {s: toy.hypervolume(search(toy, s, 100)) for s in ("guided", "random", "nsga2")}
    assert share["guided"] > 1.2 * max(share["random"], share["nsga2"]), share


def test_guided_leaves_alone_what_fails():
    toy = Layered(6)
    evaluate = deepest_fails(toy)
    trials = search(toy, "guided", 60, evaluate=evaluate)
    failed = [t.state == "failed" for t in trials]
    assert sum(failed[:20]) >= 3
    assert sum(failed[20:]) <= 4
    cut = search(toy, "guided", 41, history=[as_stored(t) for t in trials[:40]], evaluate=evaluate)
    assert same(cut[-1], trials[40])


def test_of_many_failures_the_latest_teach_guided(monkeypatch, taught):
    toy = Layered(6)
    evaluate = deepest_fails(toy)
    history = [as_stored(t) for t in search(toy, "random", 75, evaluate=evaluate)]
    monkeypatch.setattr(guided, "MOST_FAILED", 10)
    search(toy, "guided", 76, history=history, evaluate=evaluate)
    n_failed = sum(t.state == "failed" for t in history)
    assert n_failed > 10
    assert taught == [(75 - n_failed, 0), (20, 10)]


def test_what_is_known_beyond_the_budgets_teaches_guided(monkeypatch, taught):
    tight = Layered(6, budget_ms=6.0)
    history = [
        dataclasses.replace(
            as_stored(t),
            feasible=t.values["latency_ms"] <= 6.0,
            origin={"kind": "imported"},
        )
        for t in search(Layered(6), "random", 80, seed=1)
    ]
    assert 5 <= sum(t.feasible for t in history) <= 40
    found = search(tight, "guided", 81, history=history)[-1]
    assert (taught, found.feasible) == ([(75, 0)], True)  # those before its batch
    taught.clear()
    monkeypatch.setattr(guided, "MOST_FITTED", 50)
    search(tight, "guided", 81, history=history)
    assert taught == [(50, 0)]


def test_where_every_objective_is_known_each_trial_widens_the_front_most():
    toy = Layered(3, objectives=(LATENCY, Objective("params", maximise=True, known=True)))
    genomes = enumerate_all(toy.choices)
    costs = np.stack([toy.latency_ms(genomes), toy.params(genomes)], axis=1)
    front = {identity(g) for g in genomes[non_dominated(costs, [False, True])]}
    trials = search(toy, "guided", 40)
    chosen = [t for t in trials if t.origin["kind"] == "exploit"]
    assert chosen
    assert {identity(t.genome) for t in chosen} <= front
    assert front <= {identity(t.genome) for t in trials}
    assert trials[-1].origin["kind"] == "random"  # the front is whole


def test_a_list_too_long_to_be_looked_at_whole_is_searched_by_steps(monkeypatch):
    toy = Layered(3)
    listed = enumerate_all(toy.choices)
    listed = listed[np.random.default_rng(0).permutation(len(listed))[:1500]]
    toy.problem = dataclasses.replace(
        toy.problem, listed=listed, violation=lambda g: np.where(absent(g, listed), 1.0, 0.0)
    )
    known = {identity(g) for g in listed}
    values = np.stack([toy.accuracy(listed), toy.latency_ms(listed)], axis=1)
    worst = float(toy.latency_ms(toy.choices.extreme(largest=True))[0])
    best = hypervolume(values, [True, False], [0.0, worst])
    for most in (2_000, 100):
        monkeypatch.setattr(guided, "MOST_LISTED", most)
        trials = search(toy, "guided", 50)
        assert {identity(t.genome) for t in trials} <= known
        assert toy.hypervolume(trials) > 0.995 * best
        cut = [as_stored(t) for t in trials[:33]]
        assert [t.key for t in search(toy, "guided", 50, history=cut)] == [t.key for t in trials]
