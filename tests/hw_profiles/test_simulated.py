"""The profiler on a device whose truth is known: noise, offsets of processes, slow episodes."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import ANCHOR_S, IDLE_W, LOAD_W, SimulatedDevice, op_seconds

from hw_profiles.harness import Harness
from hw_profiles.op import Op
from hw_profiles.profile import OpTiming
from hw_profiles.profiler import Readings, idle_job, measure, measure_energy, op_job, op_timings
from hw_profiles.runtimes import worker

GPU = Harness("cudagraph", "cuda:0", "bf16")
OPS = [Op("linear", (197, 64 * i, 64 * j), "bf16") for i in range(1, 9) for j in range(1, 6)] + [
    Op(kind, (197, 64 * i), "bf16") for kind in ("gelu", "add", "layer_norm") for i in range(1, 11)
]


def profiled(
    device: SimulatedDevice, processes: int = 3, time_limit_s: float = 90.0
) -> tuple[list[OpTiming], Readings]:
    jobs = [op_job(op, GPU) for op in OPS]
    found = measure(
        [idle_job(GPU), *jobs],
        GPU,
        processes=processes,
        time_limit_s=time_limit_s,
        process=device.process,
    )
    return op_timings(OPS, jobs, found.jobs[1:], 0.0), found


def errors(timings: list[OpTiming]) -> np.ndarray:
    """Relative, of each op."""
    return np.array([t.timing.median_ms / 1e3 / op_seconds(t.op) - 1 for t in timings])


def span(device: SimulatedDevice, processes: int = 3) -> float:
    """Time that an undisturbed run takes, in the device's own."""
    twin = SimulatedDevice(device.noise, device.offsets, seed=device.seed)
    profiled(twin, processes)
    return twin.clock_s


def test_calm_measurements_are_the_truth() -> None:
    device = SimulatedDevice(noise=0.02)
    timings, found = profiled(device)
    assert len(timings) == len(OPS)
    assert np.abs(errors(timings)).mean() < 0.04  # the anchor's own noise is in it
    assert np.std(errors(timings)) < 0.01
    assert found.anchor.retried == 0
    assert not any(t.timing.unstable for t in timings)
    assert found.anchor.undisturbed_ms == pytest.approx(1e3 * ANCHOR_S, rel=0.05)
    assert {r["undisturbed_s"] is None for r in device.requests} == {True, False}


def test_offsets_of_processes_are_the_spread_between_them() -> None:
    timings, found = profiled(SimulatedDevice(noise=0.001, offsets=(0.0, 0.03, 0.06)))
    # the anchor shares them, so they are corrected for
    assert np.abs(errors(timings)).max() < 0.01
    means = [np.mean(found.anchor.relative[i : i + 20]) for i in found.anchor.starts]
    np.testing.assert_allclose(means, [1.0, 1.03, 1.06], atol=0.01)


@pytest.mark.parametrize("slowness", [1.15, 1.45])
def test_slow_episodes_are_read_again(slowness: float, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = span(SimulatedDevice(noise=0.005), processes=1)
    # two of three rounds are slow; ops whose drift is not the anchor's are corrected by too much
    episode = (0.3 * whole, 0.95 * whole, slowness)

    def run() -> tuple[list[OpTiming], Readings]:
        device = SimulatedDevice(0.005, episodes=(episode,), sensitivity=0.3)
        return profiled(device, processes=1)

    again, found = run()
    monkeypatch.setattr(worker, "RETRIES", 0)
    once, other = run()
    assert found.anchor.retried > 50
    assert other.anchor.retried == 0
    slow = np.array(found.anchor.relative) > found.anchor.slow_above
    assert 0.2 < slow.mean() < 0.7
    assert np.abs(errors(again)).max() < 0.02
    assert np.abs(errors(once)).max() > 0.2 * (slowness - 1)
    assert not any(t.timing.unstable for t in again)
    assert sum(t.timing.unstable for t in once) > 10


def test_what_stays_slow_is_marked_and_repeats_are_capped() -> None:
    device = SimulatedDevice(noise=0.005, sensitivity=0.5)
    whole = span(device)
    device = SimulatedDevice(0.005, episodes=((0.15 * whole, 1e9, 1.4),), sensitivity=0.5)
    timings, found = profiled(device, time_limit_s=15.0)
    marked = np.array([t.timing.unstable for t in timings])
    assert marked.mean() > 0.9
    readings = sum(t.timing.repeats for t in timings)
    assert found.anchor.retried <= worker.RETRIES * readings
    # the time that repeats take is capped as well, but for the last one of each process
    limits = sum(r["time_limit_s"] for r in device.requests)
    assert device.clock_s < 1.4 * whole + worker.RETRY_SHARE * limits + 0.5


def test_retries_end_with_the_time() -> None:
    device = SimulatedDevice(0.005, episodes=((0.05, 1e9, 1.4),))
    timings, _ = profiled(device, time_limit_s=1.0)
    assert len(timings) < len(OPS) or device.clock_s < 3.0
    assert device.clock_s < 3.0


def test_energy_of_calls_is_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    device = SimulatedDevice(noise=0.0)
    jobs = [op_job(op, GPU) for op in OPS[:5]]
    source, found = measure_energy(jobs, GPU, time_limit_s=100, seconds=0.5, process=device.process)
    assert source.idle_w == pytest.approx(IDLE_W, rel=0.02)
    assert source.method == "simulated counter"
    assert source.why_not == ""
    for op, energy in zip(OPS, found, strict=False):
        assert energy is not None
        assert energy.energy_mj == pytest.approx(1e3 * LOAD_W * op_seconds(op), rel=0.05)
        assert energy.power_w == pytest.approx(LOAD_W, rel=0.02)
    _, few = measure_energy(jobs, GPU, time_limit_s=2.0, seconds=0.5, process=device.process)
    assert few[0] is not None
    assert few[-1] is None
