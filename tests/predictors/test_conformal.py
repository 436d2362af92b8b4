"""The upper bound holds as often as it says, and is tight where errors are small."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import erfinv

from predictors.conformal import UpperBound, conformal_quantile

Array = NDArray[np.float64]


def _timings(n: int, seed: int) -> tuple[Array, Array]:
    """Predictions and measurements whose error shrinks from 20 % at 1 to 2 % at 100."""
    rng = np.random.default_rng(seed)
    predicted = 10 ** rng.uniform(0, 2, n)
    noise = 0.2 / predicted**0.5
    return predicted, predicted * np.exp(noise * rng.standard_normal(n))


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_coverage_on_fresh_timings(coverage: float) -> None:
    held = []
    for seed in range(20):
        bound = UpperBound(coverage).fit(*_timings(600, seed))
        predicted, measured = _timings(2000, 1000 + seed)
        held.append(np.mean(measured <= predicted * bound.ratio(predicted)))
    assert np.mean(held) == pytest.approx(coverage, abs=0.015)


@pytest.mark.parametrize("n", [9, 12, 40])
def test_drift_does_not_count_as_measurements(n: int) -> None:
    rng = np.random.default_rng(0)
    drift = 0.5 * np.sqrt(2) * erfinv(2 * (np.arange(199) + 0.5) / 199 - 1)  # normal, deviation 0.5
    held = []
    for _ in range(2000):
        bound = conformal_quantile(rng.standard_normal(n), 0.9, drift)
        further = rng.standard_normal(100) + 0.5 * rng.standard_normal(100)
        held.append(np.mean(further <= bound))
    assert np.mean(held) >= 0.89
    with pytest.raises(ValueError, match="at least 9"):
        conformal_quantile(rng.standard_normal(8), 0.9, drift)


def test_the_bound_is_narrower_where_errors_are_smaller() -> None:
    bound = UpperBound(0.9).fit(*_timings(2000, 0))
    small, large = bound.ratio(np.array([1.5, 80.0])) - 1.0
    assert small > 3 * large


def test_the_bound_is_never_below_the_prediction() -> None:
    predicted = np.linspace(1, 10, 200)
    bound = UpperBound(0.9).fit(predicted, 0.5 * predicted)  # a predictor that is always too slow
    assert np.all(bound.ratio(predicted) == 1.0)


def test_round_trip_through_json_is_exact() -> None:
    bound = UpperBound(0.9).fit(*_timings(500, 3))
    again = UpperBound.from_params(json.loads(json.dumps(bound.to_params())))
    predicted, _ = _timings(100, 4)
    np.testing.assert_array_equal(again.ratio(predicted), bound.ratio(predicted))


def test_too_few_measurements_promise_nothing() -> None:
    with pytest.raises(ValueError, match="at least 9 held-out"):
        conformal_quantile(np.arange(5.0), 0.9)


def test_numbers_that_do_not_fit_together_are_refused() -> None:
    params = UpperBound(0.9).fit(*_timings(100, 0)).to_params()
    with pytest.raises(ValueError, match="one length"):
        UpperBound.from_params({**params, "upper_scales": [0.1]})


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_a_wider_bound_is_a_power_of_it(power: float) -> None:
    bound = UpperBound(0.9).fit(*_timings(600, 0))
    at = np.geomspace(1, 100, 20)
    np.testing.assert_allclose(bound.wider(power).ratio(at), bound.ratio(at) ** power)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_nearer_bound_keeps_a_spread_and_is_never_wider(share: float) -> None:
    bound = UpperBound(0.9).fit(*_timings(600, 0))
    at = np.geomspace(1, 100, 20)
    logs = np.log(bound.ratio(at))
    found = np.log(bound.nearer(share, 0.01).ratio(at))
    assert (found <= logs + 1e-12).all()
    assert (found >= np.minimum(0.01, logs) - 1e-12).all()
    assert (found <= share * logs + 0.01 + 1e-12).all()
