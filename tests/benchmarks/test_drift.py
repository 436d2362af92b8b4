"""Drift is found where it was put, and does not bend the law of the times."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models.drift import DriftRegressor, densest, run_levels
from numpy.typing import NDArray
from sklearn.utils.estimator_checks import check_estimator

Floats = NDArray[np.float64]
COEFFICIENTS = np.array([3.0, 0.5, 8.0])


def _session(slow: slice, factor: float = 1.25, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Columns, clean times and drifted ones: 1 % noise, a slow run, one row in fifty disturbed."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(1, 6, (600, 3))
    clean = 2.0 + X @ COEFFICIENTS
    y = clean * np.exp(0.01 * rng.standard_normal(600))
    y[slow] *= factor
    y[::50] *= 3.0
    return X, clean, y


def test_check_estimator() -> None:
    check_estimator(DriftRegressor())


@pytest.mark.parametrize("slow", [slice(0, 240), slice(200, 330), slice(480, 600)])
def test_a_slow_run_is_found_and_does_not_count(slow: slice) -> None:
    X, clean, y = _session(slow)
    model = DriftRegressor().fit(X, y)
    truly = np.zeros(600, bool)
    truly[slow] = True
    assert np.mean(model.drifted_ == truly) > 0.98
    assert np.median(model.levels_[truly]) == pytest.approx(np.log(1.25), abs=0.01)
    assert np.max(np.abs(model.predict(X) / clean - 1)) < 0.01
    assert model.noise_ == pytest.approx(0.01, rel=0.3)
    np.testing.assert_array_equal(model.find_drifted(X, y), model.drifted_)


def test_a_steady_session_has_no_drift() -> None:
    X, _, y = _session(slice(0, 0))
    assert not DriftRegressor().fit(X, y).drifted_.any()


def test_least_squares_alone_would_be_bent() -> None:
    X, clean, y = _session(slice(0, 240))
    columns = np.column_stack([np.ones(len(X)), X])
    plain = columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
    robust = DriftRegressor().fit(X, y).predict(X)
    assert np.median(np.abs(robust / clean - 1)) < 0.1 * np.median(np.abs(plain / clean - 1))


def test_far_from_what_was_timed_a_prediction_stays_in_bounds() -> None:
    X, _, y = _session(slice(0, 0))
    far = DriftRegressor().fit(X, y).predict(np.array([[-100.0] * 3, [1e6] * 3]))
    assert far[0] == y.min() / 2
    assert far[1] == y.max() * 2


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_times_must_be_positive(value: float) -> None:
    X, _, y = _session(slice(0, 0))
    y[3] = value
    with pytest.raises(ValueError, match="positive"):
        DriftRegressor().fit(X, y)


def test_a_run_shorter_than_asked_is_none() -> None:
    errors = np.zeros(200)
    errors[100:112] = 0.3
    assert len(np.unique(run_levels(errors, shortest=20))) == 1


def test_few_rows_are_one_run() -> None:
    np.testing.assert_array_equal(run_levels(np.array([0.1, 0.2, 0.4])), 0.2)


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=40).map(np.array),
    st.floats(-5, 5),
)
def test_no_constant_is_nearer_to_half_of_the_values(values: Floats, other: float) -> None:
    half = len(values) // 2 + 1
    reach = np.sort(np.abs(values - densest(values)))[half - 1]
    assert reach <= np.sort(np.abs(values - other))[half - 1] + 1e-9
