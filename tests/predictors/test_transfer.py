"""Ten networks measured on a new device tell of all others; the bound is honest over devices."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import spearmanr

from predictors.transfer import DeviceTransfer

Floats = NDArray[np.float64]


def _devices(n: int, seed: int, noise: float = 0.04, networks: int = 400) -> tuple[Floats, Floats]:
    """Latencies (networks, n), and choices (networks, 12) of which an op cost each is the sum."""
    rng = np.random.default_rng(seed)
    choices = rng.integers(0, 2, (networks, 12)).astype(float)
    kinds = rng.uniform(0.2, 3, (3, 12))  # op costs of three kinds of device
    mix = rng.dirichlet(np.ones(3), n)
    clean = 4 + choices @ (mix @ kinds).T
    speed = np.exp(rng.uniform(-2, 2, n))
    return clean * speed * np.exp(noise * rng.standard_normal(clean.shape)), choices


def _adapted(latencies: Floats, columns: Floats | None = None, **params: object):
    """The last device, adapted to, and which networks are left to judge."""
    transfer = DeviceTransfer(**params).fit(latencies[:, :-1], columns=columns)
    rows = transfer.choose()
    left = np.setdiff1d(np.arange(len(latencies)), rows)
    return transfer.adapt(rows, latencies[rows, -1]), left


@pytest.mark.parametrize("seed", range(3))
def test_ten_measurements_rank_all_networks(seed: int) -> None:
    latencies, _ = _devices(9, seed)
    new, left = _adapted(latencies, calibrate=False)
    assert spearmanr(new.latency_ms[left], latencies[left, -1]).statistic > 0.9
    assert np.median(np.abs(new.latency_ms / latencies[:, -1] - 1)) < 0.05


def test_it_is_better_than_the_most_alike_device() -> None:
    latencies, _ = _devices(9, 0)
    new, left = _adapted(latencies, calibrate=False)
    alike = max(spearmanr(latencies[left, d], latencies[left, -1]).statistic for d in range(8))
    assert spearmanr(new.latency_ms[left], latencies[left, -1]).statistic > alike


def test_columns_that_describe_the_networks_help_where_others_are_noisy() -> None:
    without, with_columns = [], []
    for seed in range(3):
        latencies, choices = _devices(6, seed, noise=0.15)
        for columns, found in ((None, without), (choices, with_columns)):
            new, left = _adapted(latencies, columns, calibrate=False)
            found.append(spearmanr(new.latency_ms[left], latencies[left, -1]).statistic)
    assert np.mean(with_columns) > np.mean(without) + 0.02


def test_the_bound_holds_as_often_as_stated_over_new_devices() -> None:
    held, width = [], []
    for seed in range(12):
        latencies, _ = _devices(13, seed, networks=200)
        new, left = _adapted(latencies)
        held.append(np.mean(latencies[left, -1] <= new.upper_ms[left]))
        width.append(np.mean(new.upper_ms / new.latency_ms) - 1)
    assert 0.87 <= np.mean(held) <= 0.97
    assert np.mean(width) < 0.15


def test_only_the_chosen_networks_are_looked_at() -> None:
    latencies, _ = _devices(7, 1)
    transfer = DeviceTransfer(calibrate=False).fit(latencies[:, :-1])
    rows = transfer.choose()
    assert len(set(rows.tolist())) == 10
    np.testing.assert_array_equal(rows, transfer.choose())
    again = DeviceTransfer(calibrate=False).fit(latencies[:, :-1])
    one, two = (model.adapt(rows, latencies[rows, -1]).latency_ms for model in (transfer, again))
    np.testing.assert_array_equal(one, two)


def test_a_devices_unit_does_not_matter() -> None:
    latencies, _ = _devices(7, 2)
    transfer = DeviceTransfer(calibrate=False).fit(latencies[:, :-1])
    rows = transfer.choose()
    one = transfer.adapt(rows, latencies[rows, -1])
    slower = transfer.adapt(rows, 50 * latencies[rows, -1])
    np.testing.assert_allclose(slower.latency_ms, 50 * one.latency_ms, rtol=1e-9)
    np.testing.assert_allclose(slower.spread, one.spread, rtol=1e-6)


def test_chosen_networks_tell_more_than_random_ones() -> None:
    chosen, random = [], []
    for seed in range(4):
        latencies, _ = _devices(9, seed)
        transfer = DeviceTransfer(calibrate=False).fit(latencies[:, :-1])
        draws = [np.random.default_rng(s).permutation(len(latencies))[:10] for s in range(5)]
        for picks, found in (([transfer.choose()], chosen), (draws, random)):
            for rows in picks:
                predicted = transfer.adapt(rows, latencies[rows, -1]).latency_ms
                found.append(spearmanr(predicted, latencies[:, -1]).statistic)
    assert np.mean(chosen) > np.mean(random)


def test_networks_that_a_runtime_skips_do_not_count() -> None:
    latencies, _ = _devices(9, 0)
    skipped = latencies.copy()
    skipped[::50, 3] *= 1e-3  # on a known device
    skipped[::70, -1] *= 1e-3  # on the new one
    new, _ = _adapted(skipped, calibrate=False)
    assert spearmanr(new.latency_ms, latencies[:, -1]).statistic > 0.9


def test_measurements_are_checked() -> None:
    latencies, _ = _devices(4, 0)
    transfer = DeviceTransfer(calibrate=False).fit(latencies)
    with pytest.raises(ValueError, match="at least two"):
        transfer.adapt(np.array([1]), np.array([2.0]))
    with pytest.raises(ValueError, match="positive"):
        transfer.adapt(np.array([1, 2]), np.array([2.0, 0.0]))
    with pytest.raises(ValueError, match="positive"):
        DeviceTransfer().fit(-latencies)
    with pytest.raises(ValueError, match="2 devices"):
        DeviceTransfer().fit(latencies[:, :1])
