"""The fitted form of attention on a made-up GPU whose true times are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw_profiles.op import Op
from predictors import metrics
from predictors.attention_time import AttentionMLP, call_bytes, call_flops
from predictors.op_time import Array, form_class

CORES, FLOPS, BANDWIDTH = 100.0, 3e14, 2e12


def _true_ms(calls: Array, causal: bool) -> Array:
    """A floor, then waves of 128 queries, then bytes."""
    batch, heads, queries, keys, head_dim = calls.T
    waves = np.ceil(batch * heads * np.ceil(queries / 128) / CORES)
    seen = (keys + 128) / 2 if causal else keys
    arithmetic = 1.5 * waves * CORES * 128 * seen * head_dim * 4 / FLOPS
    return np.asarray(0.006 + 1e3 * (arithmetic + call_bytes(calls, heads) / BANDWIDTH))


def _calls(n: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    tokens = rng.choice([16, 50, 128, 197, 577, 1024, 4096], n)
    batch, heads = rng.choice([1, 2, 4, 8, 16, 64], n), rng.choice([1, 3, 6, 12, 16], n)
    return np.column_stack([batch, heads, tokens, tokens, rng.choice([64, 80], n)]).astype(float)


def _fitted(causal: bool) -> AttentionMLP:
    calls = _calls(1000, 0)
    times = _true_ms(calls, causal) * np.exp(np.random.default_rng(1).normal(0, 0.02, 1000))
    times[::100] *= 5  # disturbed timings
    train = np.arange(1000) % 4 != 0
    form = AttentionMLP(CORES, FLOPS, BANDWIDTH, causal, hidden=16, steps=2000)
    form.fit(calls[train], times[train])
    return form.calibrate(form.predict(calls[~train]), times[~train], 0.9)


@pytest.fixture(scope="module")
def fitted() -> AttentionMLP:
    return _fitted(causal=False)


def test_flops_and_bytes_are_those_of_the_op() -> None:
    op = Op("attention", (2, 12, 197, 197, 64), "bf16")
    calls = np.array([op.shape], np.float64)
    assert call_flops(calls, False)[0] == 2 * op.macs
    assert call_flops(calls, True)[0] == pytest.approx(op.macs * (1 + 1 / 197))
    assert call_bytes(calls, calls[:, 1])[0] == 2 * (op.reads + op.writes)
    assert call_bytes(calls, np.array([1.0]))[0] == 2 * 2 * 197 * 64 * (2 * 12 + 2 * 1)


@pytest.mark.parametrize("causal", [False, True])
def test_calls_kept_out_are_predicted_despite_disturbed_timings(causal: bool) -> None:
    form, calls = _fitted(causal), _calls(500, 2)
    assert metrics.mape(_true_ms(calls, causal), form.predict(calls)) < 6.0
    upper = form.predict(calls) * form.upper_ratio(calls)
    assert np.mean(_true_ms(calls, causal) <= upper) > 0.8


@given(shape=st.tuples(*[st.integers(1, size) for size in (512, 64, 20000, 20000, 256)]))
def test_any_call_takes_the_floor_or_more_and_its_bound_lies_above(
    fitted: AttentionMLP, shape: tuple[int, ...]
) -> None:
    call = np.array([shape], np.float64)
    assert np.isfinite(fitted.predict(call)[0])
    assert fitted.predict(call)[0] >= fitted.floor_ms_
    assert fitted.upper_ratio(call)[0] >= 1.0


def test_beyond_the_fit_time_follows_the_roofline_with_a_wider_bound(fitted: AttentionMLP) -> None:
    calls = np.array([[64.0, 16, 4096, 4096, 64], [256.0, 16, 4096, 4096, 64]])
    largest, four_times = fitted.predict(calls)
    assert four_times / largest == pytest.approx(4.0, rel=0.05)
    inside, outside = fitted.upper_ratio(calls)
    assert outside > inside


def test_narrow_heads_are_padded_and_less_certain(fitted: AttentionMLP) -> None:
    calls = np.array([[64.0, 16, 1024, 1024, d] for d in (64, 32, 8)])
    whole, half, narrow = fitted.predict(calls)
    assert whole > half == pytest.approx(narrow, rel=0.1)
    seen, unseen, least = fitted.upper_ratio(calls)
    assert seen < unseen == pytest.approx(least, rel=0.1)


def test_round_trip_through_json_is_exact(fitted: AttentionMLP) -> None:
    calls = _calls(100, 3)
    text = json.dumps(fitted.to_params())
    again = form_class("attention_mlp").from_params(json.loads(text))
    np.testing.assert_array_equal(again.predict(calls), fitted.predict(calls))
    np.testing.assert_array_equal(again.upper_ratio(calls), fitted.upper_ratio(calls))


@pytest.mark.parametrize(
    ("key", "value"), [("cores", -1.0), ("low", [1.0]), ("largest", 3.0), ("weights_1", [1.0])]
)
def test_broken_numbers_are_refused(fitted: AttentionMLP, key: str, value: object) -> None:
    params = fitted.to_params()
    with pytest.raises((KeyError, TypeError, ValueError)):
        AttentionMLP.from_params({**params, key: value})  # type: ignore[dict-item]
    with pytest.raises(KeyError):
        AttentionMLP.from_params({name: v for name, v in params.items() if name != key})
