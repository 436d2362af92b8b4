"""The fitted form of matrix products, on a made-up GPU whose true times are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictors import metrics
from predictors.gemm_time import KEPT, KEPT_LIMIT, QuantizedGemm, RooflineMLP
from predictors.op_time import Array, form_class
from predictors.roofline_time import StreamTime

CORES, FLOPS, BANDWIDTH = 100.0, 3e14, 2e12


def _true_ms(shapes: Array) -> Array:
    """A floor, then waves of 128 x 128 tiles, then bytes."""
    m, k, n = shapes.T
    waves = np.ceil(np.ceil(m / 128) * np.ceil(n / 128) / CORES)
    arithmetic = 1.3 * waves * CORES * 128 * 128 * k * 2 / FLOPS
    moved = 2.0 * (m * k + k * n + m * n) / BANDWIDTH
    return np.asarray(0.0025 + 1e3 * (0.8 * arithmetic + moved))


def _shapes(n: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return np.round(2 ** rng.uniform([0, 5, 5], [12, 13, 13], (n, 3)))


@pytest.fixture(scope="module")
def fitted() -> RooflineMLP:
    shapes = _shapes(1500, 0)
    noise = np.random.default_rng(1).normal(0, 0.02, len(shapes))
    times = _true_ms(shapes) * np.exp(noise)
    times[::100] *= 10  # disturbed timings
    train = np.arange(len(shapes)) % 4 != 0
    form = RooflineMLP(CORES, FLOPS, BANDWIDTH, hidden=24, members=2, steps=1000)
    form.fit(shapes[train], times[train])
    return form.calibrate(form.predict(shapes[~train]), times[~train], 0.9)


def test_shapes_kept_out_are_predicted_despite_disturbed_timings(fitted: RooflineMLP) -> None:
    shapes = _shapes(1000, 2)
    assert metrics.mape(_true_ms(shapes), fitted.predict(shapes)) < 8.0
    assert metrics.kendall_tau(_true_ms(shapes), fitted.predict(shapes)) > 0.95


def test_times_have_a_floor_and_bounds_lie_above(fitted: RooflineMLP) -> None:
    shapes = np.vstack([_shapes(500, 3), [[1, 1, 1], [17, 16, 48], [20000, 8192, 8192]]])
    assert np.all(fitted.predict(shapes) >= fitted.floor_ms_)
    assert np.all(fitted.upper_ratio(shapes) >= 1.0)


def test_times_nearly_grow_with_rows(fitted: RooflineMLP) -> None:
    for k, n in ((16, 48), (64, 256), (192, 768), (768, 3072)):
        times = fitted.predict(np.array([(m, k, n) for m in range(1, 4000, 7)], np.float64))
        assert np.max(np.maximum.accumulate(times) / times) < 1.15


def test_the_bound_widens_outside_the_sizes_of_the_fit(fitted: RooflineMLP) -> None:
    inside, outside = fitted.upper_ratio(np.array([[64.0, 32, 32], [64.0, 8, 8]]))
    assert outside > inside > 1.0


def test_beyond_the_fit_time_follows_the_roofline(fitted: RooflineMLP) -> None:
    largest, four_times = fitted.predict(np.array([[4096.0, 8192, 8192], [16384.0, 8192, 8192]]))
    assert four_times / largest == pytest.approx(4.0, rel=0.05)


def test_round_trip_through_json_is_exact(fitted: RooflineMLP) -> None:
    shapes = _shapes(200, 5)
    text = json.dumps(fitted.to_params())
    again = form_class("roofline_mlp").from_params(json.loads(text))
    np.testing.assert_array_equal(again.predict(shapes), fitted.predict(shapes))
    np.testing.assert_array_equal(again.upper_ratio(shapes), fitted.upper_ratio(shapes))
    assert len(text) < 60_000


def test_a_quantized_product_adds_the_pass_over_its_inputs(fitted: RooflineMLP) -> None:
    shapes = _shapes(50, 6)
    form = QuantizedGemm(fitted, StreamTime(0.002, 1e12, 5.0, 1.5))
    extra = form.predict(shapes) - fitted.predict(shapes)
    np.testing.assert_allclose(extra, 0.002 + 1e3 * shapes[:, 0] * shapes[:, 1] * 5e-12)
    again = form_class("quantized_gemm").from_params(json.loads(json.dumps(form.to_params())))
    np.testing.assert_array_equal(again.predict(shapes), form.predict(shapes))
    np.testing.assert_array_equal(again.upper_ratio(shapes), form.upper_ratio(shapes))


def test_the_same_seed_gives_the_same_fit() -> None:
    shapes = _shapes(300, 7)
    fits = [
        RooflineMLP(CORES, FLOPS, BANDWIDTH, hidden=8, members=2, steps=100).fit(
            shapes, _true_ms(shapes)
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(fits[0].predict(shapes), fits[1].predict(shapes))


@pytest.fixture(scope="module")
def on_a_lattice() -> tuple[RooflineMLP, Array, Array]:
    """A fit on a lattice of sizes whose true times have a part that no tiling explains."""
    sizes = np.meshgrid(2.0 ** np.arange(8, 12), 2.0 ** np.arange(6, 13), 2.0 ** np.arange(6, 13))
    shapes = np.column_stack([part.ravel() for part in sizes])
    rng = np.random.default_rng(8)
    true_ms = _true_ms(shapes) * np.exp(rng.normal(0, 0.05, len(shapes)))
    times = true_ms * np.exp(rng.normal(0, 0.02, len(shapes)))
    times[5] *= 20  # a disturbed timing
    form = RooflineMLP(CORES, FLOPS, BANDWIDTH, hidden=8, members=2, steps=300).fit(shapes, times)
    return form.calibrate(form.predict(shapes), times, 0.9), shapes, true_ms


def test_what_the_networks_miss_at_timed_shapes_is_kept(
    on_a_lattice: tuple[RooflineMLP, Array, Array],
) -> None:
    form, shapes, true_ms = on_a_lattice
    with_kept = metrics.median_error(true_ms, form.predict(shapes))
    smooth = RooflineMLP.from_params(
        form.to_params() | {"kept": [], "lattice_m": [], "lattice_k": [], "lattice_n": []}
    )
    assert with_kept < 0.8 * metrics.median_error(true_ms, smooth.predict(shapes))
    # a disturbed timing is not believed
    most = np.max(np.abs(np.log(form.predict(shapes) / smooth.predict(shapes))))
    assert most <= KEPT * KEPT_LIMIT + 1e-3


@given(
    st.lists(
        st.tuples(*[st.integers(1, 10**5).map(float)] * 3).filter(lambda s: np.prod(s) < 1e13),
        min_size=1,
        max_size=5,
    )
)
def test_any_shape_is_predicted_the_same_after_a_round_trip(
    on_a_lattice: tuple[RooflineMLP, Array, Array], shapes: list[tuple[float, float, float]]
) -> None:
    form, X = on_a_lattice[0], np.array(shapes)
    again = RooflineMLP.from_params(json.loads(json.dumps(form.to_params())))
    assert np.all(np.isfinite(form.predict(X)))
    assert np.all(form.predict(X) >= form.floor_ms_)
    np.testing.assert_array_equal(again.predict(X), form.predict(X))
    np.testing.assert_array_equal(again.upper_ratio(X), form.upper_ratio(X))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"kept": [0.1]}, "reshape"),
        ({"lattice_m": [4.0, 2.0, 8.0, 16.0]}, "ascend"),
        ({"biases_3": []}, "at least one network"),
        ({"weights_2": [1.0, 2.0]}, "reshape"),
        ({"low": [0.0]}, "low and high"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(
    on_a_lattice: tuple[RooflineMLP, Array, Array], broken: dict[str, list[float]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RooflineMLP.from_params(on_a_lattice[0].to_params() | broken)
