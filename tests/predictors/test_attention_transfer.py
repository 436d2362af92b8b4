"""Attention on a GPU never timed, where the truth is made of cycles, peaks and bandwidth."""

from __future__ import annotations

import numpy as np

from predictors import metrics
from predictors.attention_time import Chip, call_bytes
from predictors.attention_transfer import AttentionTransfer
from predictors.op_time import Array

SMALL = Chip(60, 1e14, 5e11, 1.6e9, 3e7)
LARGE = Chip(100, 3e14, 2e12, 1.4e9, 4e7)
NEW = Chip(140, 5e14, 1e12, 2.2e9, 5e7)


def _calls(n: int, seed: int, causal: bool) -> Array:
    rng = np.random.default_rng(seed)
    tokens = rng.choice([16, 64, 197, 577, 1024, 4096], n)
    batch, heads = rng.choice([1, 4, 16, 64], n), rng.choice([2, 6, 12, 16], n)
    head_dim = rng.choice([64, 128], n)
    kind = np.full(n, causal)
    return np.column_stack([batch, heads, tokens, tokens, head_dim, heads, kind]).astype(float)


def _true_ms(calls: Array, chip: Chip, launch_cycles: float = 12e3) -> Array:
    batch, heads, queries, keys, head_dim, kv_heads, causal = calls.T
    launch_cycles = launch_cycles * np.where(causal > 0, 1.4, 1.0)
    waves = np.ceil(batch * heads * np.ceil(queries / 128) / chip.cores)
    seen = np.where(causal > 0, (keys + 128) / 2, keys)
    cycles = launch_cycles + waves * (400 + 1.4 * 128 * seen * head_dim * 4 / chip.flops_per_cycle)
    moved = call_bytes(calls[:, :5], kv_heads) * (1 - np.exp(-queries / 1000))
    return np.asarray(1e3 * (cycles / chip.clock_hz + moved / chip.bandwidth_bytes_per_s))


def _trained(seed: int, launch_cycles: float | None = None) -> AttentionTransfer:
    calls, times, chips = [], [], []
    for chip in (SMALL, LARGE):
        for causal in (False, True):
            calls.append(_calls(500, seed, causal))
            times.append(_true_ms(calls[-1], chip))
            chips += [chip] * 500
    if launch_cycles is not None:
        calls.append(_calls(500, seed + 1, causal=True))
        times.append(_true_ms(calls[-1], NEW, launch_cycles))
        chips += [NEW] * 500
    return AttentionTransfer(NEW).fit(np.vstack(calls), np.concatenate(times), chips)


def test_a_gpu_never_timed_is_predicted_from_its_sheet() -> None:
    model = _trained(0)
    for causal in (False, True):
        calls = _calls(400, 9, causal)
        assert metrics.mape(_true_ms(calls, NEW), model.predict(calls)) < 12.0


def test_its_own_causal_calls_tell_its_launches() -> None:
    calls = _calls(400, 9, causal=False)
    truth = _true_ms(calls, NEW, launch_cycles=20e3)
    without, informed = _trained(0).predict(calls), _trained(0, 20e3).predict(calls)
    assert metrics.mape(truth, without) > 20.0
    assert metrics.mape(truth, informed) < 0.6 * metrics.mape(truth, without)


def test_one_kind_alone_still_answers_for_both() -> None:
    calls = _calls(300, 0, causal=True)
    model = AttentionTransfer(NEW).fit(calls, _true_ms(calls, SMALL), [SMALL] * 300)
    full = _calls(50, 1, causal=False)
    assert np.all(model.predict(full) > 0)
    assert metrics.kendall_tau(_true_ms(full, NEW), model.predict(full)) > 0.8


def test_the_same_seed_gives_the_same_fit() -> None:
    calls = _calls(50, 3, causal=False)
    np.testing.assert_array_equal(_trained(5).predict(calls), _trained(5).predict(calls))
