"""Energy forms: between idle power and the limit, monotone, bounded, and alive in a profile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import DeviceProfile, NetworkModel, load_profile
from hw_profiles.registry import load
from predictors.energy import EnergyPredictor, energy_predictor
from predictors.latency import latency_predictor
from predictors.op_time import Array, Params
from predictors.power import product_load

A100 = load("a100")
BUSY: Params = {
    "idle_w": 60.0, "busy_w": 80.0, "tensor_w": 250.0, "memory_w": 120.0, "limit_w": 400.0,
    "cores": 108.0, "bandwidth_bytes_per_s": 2.039e12, "peak_flops": 312e12,
    "peak_flops_int8": 624e12, "upper_ratio": 1.1,
}  # fmt: skip
CONSTANT: Params = {"power_w": 6.0, "upper_w": 7.5}


def model(form: str, params: Params) -> NetworkModel:
    return NetworkModel(
        form=form, params=params, provenance="derived", source="made up", coverage=0.9
    )


def profile(form: str, params: Params) -> DeviceProfile:
    return A100.model_copy(update={"energy": model(form, params)})


def predictor(form: str, params: Params) -> EnergyPredictor:
    found = energy_predictor(profile(form, params))
    assert found is not None
    return found


GPU, BOARD = predictor("power_times_time", BUSY), predictor("constant_power", CONSTANT)
LATENCY = latency_predictor(A100)


def energy_of(ops: Sequence[Op], form: EnergyPredictor) -> tuple[float, float]:
    mean, upper = form.predict(form.op_features(ops).sum(axis=0, keepdims=True))
    return float(mean[0]), float(upper[0])


def latency_of(ops: Sequence[Op]) -> tuple[float, float]:
    mean, upper = LATENCY.predict(LATENCY.op_features(ops).sum(axis=0, keepdims=True))
    return float(mean[0]), float(upper[0])


SIZE = st.integers(1, 2048)
OPS = st.one_of(
    st.builds(
        lambda m, k, n, p: Op("linear", (m, k, n), p),
        SIZE, SIZE, SIZE, st.sampled_from(["bf16", "int8", "int8_wo", "int4_wo"]),
    ),
    st.builds(
        lambda heads, tokens, dim: Op("attention", (1, heads, tokens, tokens, dim), "bf16"),
        st.integers(1, 16), st.integers(1, 512), st.sampled_from([16, 64]),
    ),
    st.builds(
        lambda kind, rows, width: Op(kind, (rows, width), "bf16"),
        st.sampled_from(["gelu", "add", "layer_norm"]), SIZE, SIZE,
    ),
    st.builds(
        lambda c, size, kernel: Op("conv2d", (1, c, size, size, c, kernel, 1, 1, 1), "bf16"),
        st.integers(1, 64), st.integers(7, 56), st.sampled_from([3, 5]),
    ),
)  # fmt: skip
WORKLOADS = st.lists(OPS, min_size=1, max_size=6)
QUICK = settings(max_examples=60, deadline=None)


@QUICK
@given(ops=WORKLOADS)
def test_power_lies_between_idle_and_the_limit_and_the_bound_holds_both_errors(
    ops: list[Op],
) -> None:
    (mean, upper), (ms, upper_ms) = energy_of(ops, GPU), latency_of(ops)
    assert 60.0 * ms * (1 - 1e-9) <= mean <= 400.0 * ms * (1 + 1e-9)
    assert upper >= 1.1 * mean * (1 - 1e-9)
    assert 1.1 * 60.0 * upper_ms * (1 - 1e-9) <= upper <= 1.1 * 400.0 * upper_ms * (1 + 1e-9)


@QUICK
@given(ops=WORKLOADS, more=OPS)
def test_more_ops_take_more_energy(ops: list[Op], more: Op) -> None:
    for form in (GPU, BOARD):
        before, after = energy_of(ops, form), energy_of([*ops, more], form)
        assert after[0] > before[0]
        assert after[1] > before[1]


@QUICK
@given(ops=WORKLOADS)
def test_constant_power_is_power_times_latency(ops: list[Op]) -> None:
    (mean, upper), (ms, upper_ms) = energy_of(ops, BOARD), latency_of(ops)
    assert mean == pytest.approx(6.0 * ms)
    assert upper == pytest.approx(7.5 * upper_ms)


def test_a_product_uses_the_shares_of_the_power_model() -> None:
    op = Op("linear", (512, 1024, 4096), "bf16")
    ms = np.array([latency_of([op])[0]])
    two, peak = np.array([2.0]), np.array([312e12])
    shape = np.array([op.shape], np.float64)
    load = product_load(shape, 1e-3 * ms, two, peak, 2.039e12, 108.0)[0]
    watts = 60.0 + load @ [80.0, 250.0, 120.0]
    assert watts < 400.0  # not cut
    assert energy_of([op], GPU)[0] == pytest.approx(watts * ms[0])


def test_a_convolution_of_one_pixel_windows_is_the_product_it_is() -> None:
    product = Op("linear", (196, 64, 128), "bf16")
    conv = Op("conv2d", (1, 64, 14, 14, 128, 1, 1, 0, 1), "bf16")

    def load(op: Op) -> Array:
        return np.asarray(GPU._loads([op], np.array([1e-5])))  # type: ignore[attr-defined]

    np.testing.assert_allclose(load(product), load(conv))


def test_integer_products_are_of_the_integer_peak_and_lighter_weights_move_less() -> None:
    def load(precision: str) -> Array:
        op = Op("linear", (64, 1024, 1024), precision)
        return np.asarray(GPU._loads([op], np.array([1e-5])))[0]  # type: ignore[attr-defined]

    assert load("int8")[1] == pytest.approx(load("bf16")[1] / 2)
    assert load("int4_wo")[1] == load("bf16")[1]
    assert load("int4_wo")[2] < load("int8_wo")[2] < load("bf16")[2]


@pytest.mark.parametrize(
    ("form", "params"), [("power_times_time", BUSY), ("constant_power", CONSTANT)]
)
def test_a_profile_read_back_predicts_the_same(tmp_path: Path, form: str, params: Params) -> None:
    profile(form, params).save(tmp_path / "p.json")
    again = energy_predictor(load_profile(tmp_path / "p.json"))
    assert again is not None
    ops = [Op("linear", (17, 64, 192), "int8"), Op("gelu", (17, 64), "bf16")]
    assert energy_of(ops, again) == energy_of(ops, predictor(form, params))
    assert "derived, made up" in again.provenance
    assert again.coverage == 0.9


def test_no_energy_model_is_no_predictor() -> None:
    assert energy_predictor(A100.model_copy(update={"energy": None})) is None


@pytest.mark.parametrize(
    ("form", "params"),
    [
        ("constant_power", {"power_w": 6.0}),
        ("constant_power", {"power_w": 6.0, "upper_w": 5.0}),
        ("constant_power", {"power_w": 0.0, "upper_w": 5.0}),
        ("constant_power", {"power_w": [6.0], "upper_w": 7.0}),
        ("power_times_time", {k: v for k, v in BUSY.items() if k != "limit_w"}),
        ("power_times_time", BUSY | {"cores": 0.0}),
        ("power_times_time", BUSY | {"busy_w": -1.0}),
        ("power_times_time", BUSY | {"limit_w": 50.0}),
        ("power_times_time", BUSY | {"upper_ratio": 0.9}),
        ("measured_sum", {"constant_mj": 0.0}),
    ],
)
def test_broken_numbers_are_refused(form: str, params: dict[str, Any]) -> None:
    with pytest.raises(ProfileError, match="broken numbers in its energy model") as caught:
        energy_predictor(profile(form, params))
    assert caught.value.hint


def test_a_form_of_another_version() -> None:
    with pytest.raises(ProfileError, match="unknown energy form 'oracle'; known: constant_power"):
        energy_predictor(profile("oracle", {}))
