"""Goals: whatever would be on the front reaches its goal, and what misses it never is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_problems import (
    ACCURACY,
    BITS_PER_BYTE,
    LATENCY,
    PARAMS,
    ROBUSTNESS,
    Layered,
    as_stored,
    same,
    search,
)

from nas.engine.goal import Goals
from nas.engine.pareto import non_dominated
from nas.engine.problem import Objective
from nas.executors.executor import PART_NOISE

NOISE = 0.001
OBJECTIVES = ((ACCURACY, LATENCY), (LATENCY, BITS_PER_BYTE, PARAMS), (ACCURACY,))


@given(data=st.data(), objectives=st.sampled_from(OBJECTIVES))
def test_what_would_be_on_the_front_reaches_its_goal(
    data: st.DataObject, objectives: tuple[Objective, ...]
) -> None:
    few = st.lists(st.integers(0, 4).map(float), min_size=len(objectives), max_size=len(objectives))
    told = np.array(data.draw(st.lists(few, min_size=1, max_size=12)))
    candidate = np.array(data.draw(few))
    goals = Goals(Layered(1, objectives=objectives).problem)
    for values in told:
        goals.add(values)
    (costly,) = [i for i, o in enumerate(objectives) if not o.known]
    known = np.where(np.arange(len(objectives)) == costly, np.nan, candidate)
    goal = goals.of(known)
    sign = 1 if objectives[costly].maximise else -1
    reached = goal is None or sign * candidate[costly] >= sign * goal
    on_front = non_dominated(np.vstack([told, candidate]), [o.maximise for o in objectives])[-1]
    # One that is as good at no less cost has the goal's value and is dominated all the same.
    assert reached or not on_front
    if goal is not None and sign * candidate[costly] > sign * goal:
        assert on_front


def test_several_costly_objectives_have_no_goal() -> None:
    goals = Goals(Layered(1, objectives=(ACCURACY, ROBUSTNESS, LATENCY)).problem)
    goals.add(np.array([0.9, 0.9, 1.0]))
    assert goals.of(np.array([np.nan, np.nan, 2.0])) is None


def giving_up(
    toy: Layered, exact: bool = False
) -> Callable[[np.ndarray, int, float | None], dict[str, float]]:
    """Evaluates on a part first: an estimate that errs by less than two standard errors."""

    def evaluate(genome: np.ndarray, number: int, goal: float | None) -> dict[str, float]:
        found = toy.evaluate(genome, number, goal)
        error = 0.0 if exact else np.random.default_rng([*genome]).uniform(-1.9, 1.9) * NOISE
        estimate = found["accuracy"] + error
        if goal is not None and estimate + 2 * NOISE < goal:
            return {**found, "accuracy": estimate, PART_NOISE: NOISE}
        return found

    return evaluate


@pytest.mark.parametrize("sampler", ["guided", "nsga2", "ofa-evolution", "pymoo-nsga2", "random"])
def test_a_partial_trial_is_none_of_the_front_and_a_study_is_resumed_after_it(sampler: str) -> None:
    toy = Layered(3, budget_ms=9.0)
    n = {"guided": 90, "ofa-evolution": 40, "random": 40}.get(sampler, 70)
    whole = search(toy, sampler, n, evaluate=giving_up(toy))
    genomes = np.array([t.genome for t in whole])
    values = np.stack([toy.accuracy(genomes), toy.latency_ms(genomes)], axis=1)
    partial = np.array([t.state == "partial" for t in whole])
    assert partial.any()
    assert not (partial & non_dominated(values, [True, False])).any()
    assert len({t.key for t in whole}) == n
    for trial in whole:
        missed = trial.state == "partial"
        assert (trial.noise == NOISE) is missed
        assert ("goal" in trial.origin) is missed
        assert trial.feasible
        if missed:
            assert trial.values["accuracy"] + 2 * NOISE < trial.origin["goal"]
            assert PART_NOISE not in trial.details
    for cut in range(1, n, 9):
        history = [as_stored(t) for t in whole[:cut]]
        resumed = search(toy, sampler, cut + 1, history=history, evaluate=giving_up(toy))
        assert same(resumed[-1], whole[cut]), f"after {cut} trials"
        assert (resumed[-1].noise, resumed[-1].origin) == (whole[cut].noise, whole[cut].origin)


def test_a_search_that_gives_up_goes_as_one_that_does_not_where_estimates_are_exact() -> None:
    toy = Layered(4)
    plain = search(toy, "random", 80)
    early = search(toy, "random", 80, evaluate=giving_up(toy, exact=True))
    assert [t.key for t in early] == [t.key for t in plain]
    complete = [t for t in early if t.state == "complete"]
    assert len(complete) < 60
    assert toy.hypervolume(complete) == pytest.approx(toy.hypervolume(plain), abs=0)


def test_the_guided_sampler_learns_from_partial_trials_by_their_noise() -> None:
    toy = Layered(6)
    early = search(toy, "guided", 60, evaluate=giving_up(toy))
    complete = [t for t in early if t.state == "complete"]
    assert len(complete) < len(early)
    assert toy.hypervolume(complete) > 0.98 * toy.hypervolume(search(toy, "guided", 60))
