"""Power of a made-up device: recovered from products, carried over to attention."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors.attention_time import call_bytes, call_flops
from predictors.op_time import Array
from predictors.power import PowerModel, attention_load, product_load

COEF = np.array([120.0, 180.0, 400.0, 150.0])
shares = st.floats(0.0, 1.0)


def _loads(n: int, seed: int) -> Array:
    return np.random.default_rng(seed).uniform(0, [1, 0.6, 0.9], (n, 3))


def _watts(loads: Array) -> Array:
    return np.asarray(COEF[0] + loads @ COEF[1:])


def test_factors_are_recovered_below_a_limit_and_from_disturbed_readings() -> None:
    loads = _loads(2000, 0)
    watts = np.minimum(_watts(loads), 520.0) * np.exp(
        np.random.default_rng(1).normal(0, 0.01, 2000)
    )
    watts[::100] *= 0.5
    assert np.mean(watts > 500) > 0.1
    model = PowerModel(limit_w=520.0).fit(loads, watts)
    np.testing.assert_allclose(model.coef_, COEF, rtol=0.06)


@given(load=st.tuples(shares, shares, shares), limit=st.floats(150, 900))
def test_power_lies_between_idle_and_the_limit(
    load: tuple[float, float, float], limit: float
) -> None:
    model = PowerModel(limit)
    model.coef_ = COEF
    watts = model.predict(np.array([load, (0.0, 0.0, 0.0)]))
    assert COEF[0] - 1e-9 <= watts[0] <= limit + 1e-9
    assert watts[1] == pytest.approx(min(COEF[0], limit))


def test_a_slow_meter_is_seen_through() -> None:
    loads = np.repeat(_loads(150, 2), 8, axis=0)
    truth = PowerModel(900.0, persistence=0.8)
    truth.coef_ = COEF
    readings = truth.predict(loads)
    assert np.ptp(readings) < np.ptp(_watts(loads))  # the window levels out
    seen = PowerModel(900.0, persistence=0.8).fit(loads, readings)
    np.testing.assert_allclose(seen.coef_, COEF, rtol=0.02)
    blind = PowerModel(900.0).fit(loads, readings)
    assert abs(blind.coef_[1] - COEF[1]) > 20
    np.testing.assert_allclose(truth.predict(loads[:1]), _watts(loads[:1]))
    np.testing.assert_allclose(truth.predict(loads[:8]), _watts(loads[:8]))  # eight times the same


def test_loads_are_shares_of_the_peaks() -> None:
    seconds, cores, peak, bandwidth = np.array([1e-3]), 100.0, 1e15, 4e12
    shapes = np.array([[4096.0, 4096, 4096]])
    two, peaks = np.array([2.0]), np.array([peak])
    busy, tensor, memory = product_load(shapes, seconds, two, peaks, bandwidth, cores)[0]
    assert busy == pytest.approx(0.998)
    assert tensor == pytest.approx(2 * 4096**3 / 1e-3 / peak)
    assert memory == pytest.approx(3 * 2 * 4096**2 / 1e-3 / bandwidth)
    call = np.array([[1.0, 10, 128, 128, 64]])
    flops, moved = call_flops(call, False), call_bytes(call, call[:, 1])
    busy, tensor, memory = attention_load(
        call, np.array([1e-5]), flops, moved, peak, bandwidth, cores
    )[0]
    assert busy == pytest.approx(20 / cores * 0.5)
    assert tensor == pytest.approx(4 * 10 * 128**2 * 64 / 1e-5 / peak)
    assert memory == pytest.approx(4 * 10 * 128 * 64 * 2 / 1e-5 / bandwidth)
