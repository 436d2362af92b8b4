"""Matrix products on a device without timings, on made-up devices whose true times are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_profiles.gpus import MIB, Gpu
from predictors import metrics
from predictors.op_time import Array, form_class
from predictors.tile_model import PRIOR, TileModel
from predictors.unseen_gemm import UnseenGemm

AMPERE = Gpu("a", 80, 3.12e14, 2.0e12, 400, 108, 40 * MIB, 1.41e9)
ADA = Gpu("b", 89, 3.62e14, 0.86e12, 350, 142, 96 * MIB, 2.52e9)
HOPPER = Gpu("c", 90, 9.89e14, 3.35e12, 700, 132, 50 * MIB, 1.98e9)
HOPPER_MORE_MEMORY = Gpu("d", 90, 9.89e14, 4.8e12, 700, 132, 50 * MIB, 1.98e9)


def _truth() -> TileModel:
    """The model with every factor off its prior by up to 40 %."""
    model = TileModel()
    rng = np.random.default_rng(0)
    model.factors_ = {name: value + rng.uniform(-0.4, 0.4) for name, value in PRIOR.items()}
    return model


def _shapes(n: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return np.asarray(np.round(2 ** rng.uniform([0, 5, 5], [12, 13, 13], (n, 3))))


def _table(gpu: Gpu, seed: int, n: int = 300) -> tuple[Gpu, Array, Array]:
    shapes = _shapes(n, seed)
    noise = np.random.default_rng(seed).normal(0, 0.02, n)
    times = _truth().predict(shapes, gpu) * np.exp(noise)
    times[::100] *= 10  # disturbed timings
    return gpu, shapes, times


@pytest.fixture(scope="module")
def sheet_alone() -> UnseenGemm:
    return UnseenGemm(HOPPER, steps=40, rows=150).fit([_table(AMPERE, 1), _table(ADA, 2)])


@pytest.fixture(scope="module")
def with_sibling() -> UnseenGemm:
    tables = [_table(AMPERE, 1), _table(HOPPER_MORE_MEMORY, 2, 900)]
    return UnseenGemm(HOPPER, steps=20, rows=100, sibling_steps=600).fit(tables)


def test_a_device_is_predicted_from_others_with_other_kernels(sheet_alone: UnseenGemm) -> None:
    shapes = _shapes(600, 3)
    true = _truth().predict(shapes, HOPPER)
    unfitted = TileModel()
    unfitted.factors_ = PRIOR
    error = metrics.mape(true, sheet_alone.predict(shapes))
    assert sheet_alone.sibling_ is None
    assert error < 9
    assert error < 0.6 * metrics.mape(true, unfitted.predict(shapes, HOPPER))


def test_the_bound_holds_on_the_device(sheet_alone: UnseenGemm) -> None:
    shapes = _shapes(600, 4)
    upper = sheet_alone.predict(shapes) * sheet_alone.upper_ratio(shapes)
    assert metrics.coverage(_truth().predict(shapes, HOPPER), upper) > 0.85


def test_a_sibling_s_own_times_are_scaled_to_the_device(with_sibling: UnseenGemm) -> None:
    shapes = np.array([[64.0, 8192, 8192], [8.0, 8192, 4096]])  # what memory bounds
    assert with_sibling.sibling_ == HOPPER_MORE_MEMORY
    ratio = with_sibling.predict(shapes) / with_sibling.sibling_time_.predict(shapes)
    assert np.all((ratio > 1.25) & (ratio < 4.8 / 3.35 + 0.01))
    assert with_sibling.bound_share_ < 0.5


def test_bounds_are_never_below_the_prediction(
    sheet_alone: UnseenGemm, with_sibling: UnseenGemm
) -> None:
    for form in (sheet_alone, with_sibling):
        assert np.all(form.upper_ratio(_shapes(300, 5)) >= 1.0)


sizes = st.integers(1, 100_000)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(sizes, sizes, sizes), min_size=1, max_size=20))
def test_any_shape_survives_a_round_trip_through_json(
    sheet_alone: UnseenGemm, with_sibling: UnseenGemm, shapes: list[tuple[int, int, int]]
) -> None:
    X = np.array(shapes, np.float64)
    for form in (sheet_alone, with_sibling):
        again = form_class("unseen_gemm").from_params(json.loads(json.dumps(form.to_params())))
        times = form.predict(X)
        assert np.all(np.isfinite(times) & (times > 0))
        np.testing.assert_array_equal(again.predict(X), times)
        np.testing.assert_array_equal(again.upper_ratio(X), form.upper_ratio(X))


def test_broken_numbers_are_refused(sheet_alone: UnseenGemm) -> None:
    params = sheet_alone.to_params()
    for wrong in (
        {"factors": [1.0]},
        {"gpu_cores": -1.0},
        {"gpu_cores": 1e300},
        {"gpu_cores": [1.0]},
    ):
        with pytest.raises((TypeError, ValueError)):
            UnseenGemm.from_params(params | wrong)


def test_no_table_is_refused() -> None:
    with pytest.raises(ValueError, match="table"):
        UnseenGemm(HOPPER).fit([])
