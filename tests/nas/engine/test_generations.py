"""Samplers of generations: resumed after many of them, and where few networks meet the budget."""

from __future__ import annotations

import inspect
import sys

import numpy as np
import pytest
from search_problems import Layered, as_stored, search

from nas.engine.candidates import unique
from nas.engine.linas import Linas
from nas.engine.loop import Evaluated
from nas.engine.outer import PymooSearch
from nas.engine.told import Told


@pytest.mark.parametrize("sampler", ["pymoo-nsga2", "pymoo-unsga3"])
def test_a_search_of_many_generations_goes_on_as_it_would_have(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PymooSearch, "MAX_STALE", 4)  # generations, of which 600 trials have more
    whole = search(Layered(9), sampler, 600)
    for cut in (120, 430, 555):
        history = [as_stored(trial) for trial in whole[:cut]]
        found = search(Layered(9), sampler, cut + 3, history=history)
        assert [trial.key for trial in found] == [trial.key for trial in whole[: cut + 3]]


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3"])
def test_generations_of_a_resumed_study_are_not_nested_calls(sampler: str) -> None:
    toy = Layered(9)
    genomes = unique(toy.choices.sample(6_600, np.random.default_rng(0)))[:6_000]
    rows = zip(genomes, toy.choices.keys(genomes), toy.accuracy(genomes), strict=True)
    history = [
        Evaluated(i, genome, key, {"accuracy": float(value)}, True, "complete", {"kind": sampler})
        for i, (genome, key, value) in enumerate(rows)
    ]
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 260)  # 120 generations, three calls each
    try:
        assert len(search(toy, sampler, 6_001, history=history)) == 6_001
    finally:
        sys.setrecursionlimit(usual)


def test_linas_draws_while_it_knows_few_networks() -> None:
    toy = Layered(3)
    genomes = unique(toy.choices.sample(200, np.random.default_rng(0)))[:3]
    again = np.arange(50) % 3  # a round of proposals that were three networks again and again
    latency = toy.latency_ms(genomes)[again]
    told = Told(genomes[again], np.stack([-latency, latency], 1), np.zeros(50), np.zeros(50))
    sampler = Linas(toy.problem, 0)
    assert toy.problem.feasible(sampler.propose(told)[None, :]).all()
    assert sampler.origin["round"] == 1
