import dataclasses
import logging

import numpy as np
import pytest
from optuna.samplers import RandomSampler
from search_problems import (
    ACCURACY,
    BITS_PER_BYTE,
    LATENCY,
    PARAMS,
    ROBUSTNESS,
    Layered,
    absent,
    as_stored,
    same,
    search,
)

from nas.engine import linas
from nas.engine.asking import ThroughOptuna
from nas.engine.candidates import enumerate_all, identity
from nas.engine.loop import run_search
from nas.engine.outer import directions
from nas.engine.problem import Objective
from nas.engine.samplers import get_sampler, list_samplers, register_sampler, require_sampler
from nas.errors import BudgetError, NotFoundError, UsageError
from nas.executors.executor import EvaluationFailed
from search_spaces.choices import Choice, ChoiceSet

DIRECTED = ["pymoo-ctaea", "pymoo-nsga3", "pymoo-unsga3"]
GENERATIONAL = ["linas", "nsga2", "nsga3", "pymoo-nsga2", *DIRECTED]
SAMPLERS = sorted(["guided", "ofa-evolution", "random", "tpe", *GENERATIONAL])
ORDERED = ChoiceSet(tuple(Choice(f"layers.{i}.width", (1, 2, 3, 4)) for i in range(3)))


@pytest.fixture(autouse=True)
def _short_searches_on_predictions(monkeypatch):
    monkeypatch.setattr(linas, "GENERATIONS", 4)
    monkeypatch.setattr(linas, "ALPHAS", [0.1, 10.0])
    monkeypatch.setattr(linas, "COSTS", [1.0, 100.0])


# Seed 5 of Layered(3, budget_ms=9): a change here is a change of what every seeded study does.
# The guided choices stay the same under a disturbance of the accuracies by 1e-6.
GOLDEN = {
    "guided": """
        9b02e59c f2c35c54 c0e4fab5 8554e6c0 93e66ec1 7d3cc66b 683ae8d3 dbf22ce3 45f9e503 47aa0fa8
        36c563a6 c439ae11 5dda1358 fd372827 5300f425 16e0bc6b 089f6024 a061e21f 7fab8d65 09291526
    """,
    "random": """
        7975d3c6 80aff6eb 1d4b0627 bfee6ec9 526eeb1a 39ad68f7 b45e807f f2a683aa ded9b185 01affec6
        333e643d f9f8364e f2c35c54 fb39dccc 3b193232 bd71221b 166d9c62 054a8275 15c8759f fd372827
    """,
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_cut_after_any_trial_goes_on_as_it_would_have(sampler):
    toy = Layered(3, budget_ms=9.0)
    generations = sampler in GENERATIONAL
    n = 110 if sampler in ("linas", "nsga3") else 70 if generations else 24
    whole = search(toy, sampler, n)
    for cut in range(0, n, n // 10 if generations else 1):
        resumed = search(toy, sampler, cut + 1, history=[as_stored(t) for t in whole[:cut]])
        assert same(resumed[-1], whole[cut]), f"after {cut} trials"
        assert resumed[-1].origin == whole[cut].origin
    resumed = search(toy, sampler, n, history=[as_stored(t) for t in whole[: n // 2]])
    assert [t.key for t in resumed] == [t.key for t in whole]


@pytest.mark.parametrize("sampler", ["pymoo-nsga2", *DIRECTED])
def test_what_fails_alike_is_bred_from_by_the_seed(sampler):
    def fails(genome, number, goal):
        raise EvaluationFailed("always")

    first, second = (search(Layered(3), sampler, 110, evaluate=fails) for _ in range(2))
    assert [t.key for t in first] == [t.key for t in second]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_evaluation_is_new_feasible_and_recorded_before_the_next(sampler):
    toy = Layered(3, budget_ms=4.0)
    recorded = []

    def evaluate(genome, number, goal):
        assert number == len(recorded)
        return toy.evaluate(genome, number, goal)

    trials = search(toy, sampler, 40, evaluate=evaluate, record=recorded.append)
    assert recorded == trials
    assert len(set(toy.evaluated)) == len(toy.evaluated) == len({t.key for t in trials}) == 40
    assert all(toy.latency_ms(t.genome[None])[0] <= 4.0 and t.feasible for t in trials)
    assert [t.number for t in trials] == list(range(40))


@pytest.mark.parametrize("sampler", ["guided", "random"])
def test_golden_trajectory(sampler):
    trials = search(Layered(3, budget_ms=9.0), sampler, 20)
    assert [t.key[:8] for t in trials] == GOLDEN[sampler].split()


def test_seeds_differ():
    toy = Layered(3)
    a, b = (search(toy, "guided", 20, seed=s) for s in (0, 1))
    assert [t.key for t in a] != [t.key for t in b]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_space_that_is_used_up_ends_the_study(sampler, caplog):
    toy = Layered(1)
    with caplog.at_level(logging.WARNING):
        trials = search(toy, sampler, 50)
    assert len(trials) == len({t.key for t in trials}) == toy.choices.cardinality() == 12
    assert "is left after 12 of 50" in caplog.text


def test_nothing_is_said_to_be_left_only_of_a_space_that_was_listed(caplog):
    toy = Layered(5, budget_ms=2.1)  # 271,440 candidates, three of which meet it
    with caplog.at_level(logging.WARNING):
        assert len(search(toy, "guided", 50)) == 3
    assert "no unseen candidate that meets the budget was found after 3 of 50" in caplog.text


@pytest.mark.parametrize("layers", [3, 9])
@pytest.mark.parametrize("sampler", ["guided", "nsga2"])
def test_a_budget_that_nothing_meets_is_an_error(sampler, layers):
    toy = Layered(layers, budget_ms=0.01)
    with pytest.raises(BudgetError, match="larger budget"):
        search(toy, sampler, 5)
    assert toy.evaluated == []


@pytest.mark.parametrize("sampler", ["guided", *GENERATIONAL])
def test_failed_evaluations_are_trials_with_a_reason(sampler):
    toy = Layered(3)

    def evaluate(genome, number, goal):
        if number % 3 == 0:
            raise EvaluationFailed("out of memory")
        if number % 3 == 1 and number > 20:
            return {"accuracy": float("nan")}
        return toy.evaluate(genome, number, goal)

    trials = search(toy, sampler, 60, evaluate=evaluate)
    assert len({t.key for t in trials}) == 60
    failed = [t for t in trials if t.state == "failed"]
    assert {t.number for t in failed if t.number % 3 == 0} == set(range(0, 60, 3))
    assert failed[0].origin["reason"] == "out of memory"
    assert "nan" in failed[-1].origin["reason"] or failed[-1].number % 3 == 0
    assert not any(t.feasible or "accuracy" in t.values for t in failed)
    cut = search(toy, sampler, 21, history=[as_stored(t) for t in trials[:20]], evaluate=evaluate)
    assert same(cut[-1], trials[20])


@pytest.mark.parametrize("quality", [ACCURACY, BITS_PER_BYTE])
def test_what_no_budget_allows_is_told_with_the_worst_quality(monkeypatch, quality):
    toy = Layered(3, budget_ms=4, objectives=(quality, LATENCY))
    told = []
    tell = ThroughOptuna.tell

    def spy(self, found, trial=None):
        told.append((found.violation > 0, found.values))
        tell(self, found, trial)

    monkeypatch.setattr(ThroughOptuna, "tell", spy)
    search(toy, "tpe", 20)
    first = next(n for n, (beyond, _) in enumerate(told) if not beyond)
    worse = min if quality.maximise else max
    worst = told[first][1][0]
    beyond_budget = 0
    for beyond, values in told[first:]:
        if beyond:
            assert values[0] == worst
            beyond_budget += 1
        else:
            worst = worse(worst, values[0])
    assert beyond_budget > 5


def test_an_error_of_the_record_is_the_callers():
    def full(trial):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        search(Layered(3), "guided", 5, record=full)


def test_stopping_and_totals():
    toy = Layered(3)
    asked = []
    trials = run_search(
        toy.problem,
        "guided",
        trials=30,
        seed=0,
        history=(),
        evaluate=toy.evaluate,
        record=asked.append,
        should_stop=lambda: len(asked) == 7,
    )
    assert len(trials) == len(asked) == 7
    assert len(search(toy, "guided", 5, history=trials)) == 7


@pytest.mark.parametrize(
    "objectives",
    [
        (ACCURACY,),
        (ACCURACY, LATENCY, PARAMS),
        (LATENCY, ROBUSTNESS, ACCURACY),
        (Objective("accuracy", maximise=False, known=False), LATENCY),
    ],
    ids=lambda objectives: "-".join(o.name for o in objectives),
)
@pytest.mark.parametrize("sampler", ["guided", "linas", "nsga3", "pymoo-nsga2", *DIRECTED])
def test_any_number_of_objectives(sampler, objectives):
    toy = Layered(3, budget_ms=8.0, objectives=objectives)
    if sampler in DIRECTED and len(objectives) == 1:
        with pytest.raises(UsageError, match="two objectives"):
            search(toy, sampler, 24)
        return
    trials = search(toy, sampler, 24)
    assert len({t.key for t in trials}) == 24
    assert all(set(t.values) == {o.name for o in objectives} for t in trials)


@pytest.mark.parametrize("others", [(LATENCY,), ()], ids=["two", "one"])
@pytest.mark.parametrize("sampler", [*SAMPLERS, "mixnmatch"])
def test_a_quality_may_be_minimised_and_lie_anywhere(sampler, others):
    if sampler in DIRECTED and not others:
        pytest.skip("spreads over directions: needs two objectives")
    if sampler == "pymoo-ctaea":
        pytest.skip("measures distances in the objectives' own units")
    more = Layered(4, budget_ms=5.0, objectives=(ACCURACY, *others))
    less = Layered(4, budget_ms=5.0, objectives=(BITS_PER_BYTE, *others))
    if sampler == "ofa-evolution":  # past its first generation
        more, less = (Layered(9, objectives=(o, *others)) for o in (ACCURACY, BITS_PER_BYTE))
    n = 130 if sampler == "ofa-evolution" else 26
    expected, trials = search(more, sampler, n), search(less, sampler, n)
    assert [t.key for t in trials] == [t.key for t in expected]
    if sampler == "guided":
        origin = trials[-1].origin
        assert abs(origin["predicted"]["bits_per_byte"] - trials[-1].values["bits_per_byte"]) < 0.8


def test_one_objective_is_driven_to_its_best():
    toy = Layered(5, budget_ms=8.0, objectives=(ACCURACY,))
    drawn = toy.choices.sample(20_000, np.random.default_rng(0))
    best = toy.accuracy(drawn[toy.latency_ms(drawn) <= 8.0]).max()
    found = max(t.values["accuracy"] for t in search(toy, "guided", 34))
    assert found >= best - 0.002


def test_optunas_gaussian_process_is_resumed_too():
    toy = Layered(3, budget_ms=9.0)
    whole = search(toy, "gp", 14)
    for cut in (7, 12, 13):
        resumed = search(toy, "gp", cut + 1, history=[as_stored(t) for t in whole[:cut]])
        assert same(resumed[-1], whole[cut])


def test_cma_es_is_resumed_too():
    pytest.importorskip("cmaes")
    toy = Layered(1, objectives=(ACCURACY,))
    problem = dataclasses.replace(
        toy.problem,
        choices=ORDERED,
        costs=lambda g: {},
        violation=lambda g: np.where(g.sum(axis=1) > 7, 1.0, 0.0),
        features=lambda g: np.empty((len(g), 0)),
    )

    def run(trials, history=()):
        return run_search(
            problem,
            "cmaes",
            trials=trials,
            seed=3,
            history=history,
            evaluate=lambda g, *_: {"accuracy": 1 - (g - 2) @ (g - 2) / 20 - g[0] / 100},
            record=lambda trial: None,
        )

    whole = run(40)
    assert sum(len(t.origin.get("asked", [])) for t in whole) > 10  # some were proposed again
    for cut in range(3, 40, 4):
        resumed = run(40, [as_stored(t) for t in whole[:cut]])
        assert [t.key for t in resumed] == [t.key for t in whole]


@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "pymoo-nsga2", "random", "guided"])
def test_of_a_list_what_is_most_like_a_proposal_is_evaluated(sampler):
    toy = Layered(3)
    listed = enumerate_all(toy.choices)[::3]
    toy.problem = dataclasses.replace(
        toy.problem, listed=listed, violation=lambda g: np.where(absent(g, listed), 1.0, 0.0)
    )
    trials = search(toy, sampler, 60)
    known = {identity(g) for g in listed}
    assert {identity(t.genome) for t in trials} <= known
    kinds = {t.origin["kind"] for t in trials}
    assert ("nearest" in kinds) is (sampler != "guided")
    if sampler != "guided":
        proposed = next(t for t in trials if t.origin["kind"] == "nearest").origin["asked"][0]
        assert identity(toy.choices.canonical(np.array([proposed]))[0]) not in known
    cut = [as_stored(t) for t in trials[:30]]
    assert [t.key for t in search(toy, sampler, 60, history=cut)] == [t.key for t in trials]


def test_samplers_that_do_not_apply_say_so(monkeypatch):
    monkeypatch.setattr("nas.engine.samplers.find_spec", lambda name: None)
    monkeypatch.setattr("nas.engine.outer.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="has 2 objectives"):
        search(Layered(3), "cmaes", 3)
    with pytest.raises(UsageError, match=r"layers\.0\.width exists for some"):
        search(Layered(3, objectives=(ACCURACY,)), "cmaes", 3)
    ordered = dataclasses.replace(Layered(1, objectives=(ACCURACY,)).problem, choices=ORDERED)
    with pytest.raises(UsageError, match="needs the package cmaes"):
        get_sampler("cmaes", ordered, 0)
    with pytest.raises(UsageError, match="needs the package numba"):
        search(Layered(3), "pymoo-agemoea", 3)
    with pytest.raises(UsageError, match="two objectives"):
        search(Layered(3, objectives=(ACCURACY,)), "pymoo-agemoea", 3)


def test_agemoea_runs_where_numba_is():
    pytest.importorskip("numba")
    trials = search(Layered(3), "pymoo-agemoea", 70)
    assert len({t.key for t in trials}) == 70


@pytest.mark.parametrize(("objectives", "n"), [(2, 50), (3, 45), (4, 35), (5, 35), (6, 21)])
def test_reference_directions_fit_the_population(objectives, n):
    found = directions(objectives)
    assert found.shape == (n, objectives)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_linas_learns_after_its_first_fifty():
    toy = Layered(6)
    trials = search(toy, "linas", 100)
    assert [t.origin["kind"] for t in trials[:50]] == ["random"] * 50
    later = [t for t in trials[50:] if t.origin["kind"] == "predicted"]
    assert len(later) > 30
    assert toy.hypervolume(trials) > toy.hypervolume(search(toy, "random", 100))


def test_linas_searches_three_objectives_toward_directions():
    toy = Layered(5, objectives=(ACCURACY, LATENCY, PARAMS))
    trials = search(toy, "linas", 100)
    assert {t.origin["kind"] for t in trials[60:]} == {"predicted"}
    assert toy.hypervolume(trials) > toy.hypervolume(search(toy, "random", 100))


@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e6])
def test_linas_predicts_alike_in_any_unit(unit):
    toy = Layered(4)
    genomes = toy.choices.sample(60, np.random.default_rng(0))
    code, accuracy = toy.choices.one_hot(genomes), -toy.accuracy(genomes)
    whole, scaled = (linas._fitted(code, y).predict(code) for y in (accuracy, accuracy * unit))
    np.testing.assert_allclose(scaled, whole)
    assert np.corrcoef(whole, accuracy)[0, 1] > 0.9


def test_samplers_are_listed_and_an_unknown_one_names_its_nearest():
    everywhere = {"cmaes", "gp", "mixnmatch", "pymoo-agemoea"}
    assert set(SAMPLERS) | everywhere <= set(list_samplers())
    require_sampler("guided")
    with pytest.raises(NotFoundError, match="Did you mean 'guided'"):
        require_sampler("guide")
    with pytest.raises(NotFoundError, match="'nsga2'"):
        search(Layered(3), "nsga", 3)


def test_a_sampler_can_be_registered():
    @register_sampler("plain-test", "by lot")
    def _plain(problem, seed):
        return lambda told: RandomSampler(seed=told)

    assert list_samplers()["plain-test"] == "by lot"
    assert len(search(Layered(1), "plain-test", 12)) == 12
