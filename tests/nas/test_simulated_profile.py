"""The whole CUDA path without a GPU: measure, fit, state the error; on a device of known truth."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "hw_profiles"))

from fake_nvml import FakeNvml
from simulated import IDLE_W, LOAD_W, SimulatedDevice, draw, network_seconds, op_seconds

import search_spaces
from hw_profiles.errors import MeasureError
from hw_profiles.harness import Harness, require_harness
from hw_profiles.profile import DeviceProfile, load_profile
from hw_profiles.profiler import measure, network_job, timing
from nas import profiling
from nas.probes import Probe, policies
from nas.profiling import describe_profile, energy_order, profile_device, require_device
from predictors.energy import energy_predictor
from predictors.latency import latency_predictor
from predictors.metrics import coverage, mape

GPU = require_harness("cuda")
DIGITS = search_spaces.get("vit", "digits")
OFFSETS = (0.0, 0.04, 0.01, 0.03)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(profiling, "ENERGY_SHARE", 0.02)
    return FakeNvml().install(monkeypatch)


def profiled(device: SimulatedDevice, harness: Harness = GPU, **options: object) -> DeviceProfile:
    options = {"spaces": ["vit:digits"], "time_limit_s": 300.0} | options
    return profile_device("sim", harness, process=device.process, **options)  # type: ignore[arg-type]


def judged(
    profile: DeviceProfile, seed: int, n: int = 40, slower: float = 0.0, apart: float = 0.03
) -> tuple[float, float]:
    """Error and coverage on networks that no fit saw, in other processes of a slower machine."""
    rng = np.random.default_rng(100 + seed)
    archs = [DIGITS.choices.decode(g) for g in DIGITS.choices.sample(n, rng)]
    offsets = tuple((1 + offset) * (1 + slower) - 1 for offset in OFFSETS)
    other = SimulatedDevice(0.01, offsets, layout=apart, quirk=apart, seed=100 + seed)
    jobs = [
        network_job(
            "nas.probes:torch_call",
            {"space": "vit", "preset": "digits", "architecture": a, "batch_size": 1}
            | GPU.arguments,
        )
        for a in archs
    ]
    found = measure(jobs, GPU, processes=4, time_limit_s=300, process=other.process)
    measured = [timing(readings).median_ms for readings in found.jobs]
    predictor = latency_predictor(profile)
    workloads = [
        Probe(DIGITS, policies(DIGITS, a, ["bf16"], rng)[0], False).workload(1, "bf16")
        for a in archs
    ]
    features = np.array([predictor.op_features(w).sum(axis=0) for w in workloads])
    mean, upper = predictor.predict(features)
    return mape(measured, mean), coverage(measured, upper)


def test_what_is_fitted_holds_on_networks_that_were_not_timed(gpu: FakeNvml) -> None:
    results, stated = [], []
    for seed in range(4):
        device = SimulatedDevice(0.01, OFFSETS, layout=0.03, quirk=0.03, seed=seed)
        made = profiled(device, seed=seed)
        assert made.network is not None
        assert made.network.error is not None
        stated.append(made.network.error.mape)
        results.append(judged(made, seed))
    found = np.array([m for m, _ in results])
    # architectures differ by 3 % from any sum, and the medians of four processes by 1.5 % of what
    # layouts differ by: no fit can be under 2.7 %
    assert 2.0 < found.min() <= found.max() < 4.0
    assert abs(np.mean(stated) - found.mean()) < 1.5
    # 90 % are promised in a session as much slower as processes are, which this one is not; and
    # ten networks set the bound: single profiles scatter by 6 %
    assert 0.88 <= np.mean([c for _, c in results]) <= 0.99


def test_the_bound_allows_for_a_session_as_much_slower_as_one_process_than_another(
    gpu: FakeNvml,
) -> None:
    apart = [(1 + a) / (1 + b) - 1 for a, b in itertools.permutations(OFFSETS, 2)]
    held = []
    for seed in range(3):
        made = profiled(SimulatedDevice(0.01, OFFSETS, layout=0.01, quirk=0.01, seed=seed))
        assert made.anchor is not None
        np.testing.assert_allclose(made.anchor.levels, 1 + np.array(OFFSETS), atol=0.015)
        held.append([judged(made, seed, slower=slower, apart=0.01)[1] for slower in apart])
    # 90 % are promised; without the levels it would be 76 %
    assert 0.85 <= np.mean(held) <= 0.96


def test_times_and_energies_are_the_devices(gpu: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiling, "ENERGY_SHARE", 0.3)
    made = profiled(SimulatedDevice(0.01, OFFSETS))
    assert made.runtime.model_dump() == {
        "name": "cudagraph", "version": torch.__version__, "native": "bf16", "threads": 1,
        "plans_buffers": False,
    }  # fmt: skip
    ratios = [o.timing.median_ms / 1e3 / op_seconds(o.op) for o in made.ops]
    np.testing.assert_allclose(ratios, 1.0, atol=0.04)
    timed = [n.timing.median_ms / 1e3 / network_seconds(n.workload()) for n in made.networks]
    np.testing.assert_allclose(timed, 1.0, atol=0.04)
    assert made.power is not None
    assert made.power.idle_w == pytest.approx(IDLE_W, rel=0.02)
    powered = [(n.energy, n) for n in made.networks if n.energy is not None]
    assert len(powered) > 10  # as many as the time allows
    for energy, network in powered:
        assert energy.energy_mj == pytest.approx(
            1e3 * LOAD_W * network_seconds(network.workload()), rel=0.05
        )
    assert sum(o.energy is not None for o in made.ops) > 10


def test_energy_of_networks_that_were_not_metered_is_predicted(
    gpu: FakeNvml, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(profiling, "ENERGY_SHARE", 0.3)
    device = SimulatedDevice(0.01, OFFSETS, quirk=0.03)
    made = profiled(device, time_limit_s=600.0, out=tmp_path / "gpu.json")
    assert made.power is not None
    assert made.power.why_not == ""
    assert made.energy is not None
    assert made.energy.error is not None
    assert made.energy.provenance == "measured"
    predictor = energy_predictor(load_profile(tmp_path / "gpu.json"))
    assert predictor is not None
    rng = np.random.default_rng(5)
    archs = [DIGITS.choices.decode(g) for g in DIGITS.choices.sample(60, rng)]
    workloads = [
        Probe(DIGITS, policies(DIGITS, a, ["bf16"], rng)[0], False).workload(1, "bf16")
        for a in archs
    ]
    features = np.array([predictor.op_features(w).sum(axis=0) for w in workloads])
    mean, upper = predictor.predict(features)
    quirks = [1 + 0.03 * draw(repr(sorted(a.items()))) for a in archs]
    truth = [1e3 * LOAD_W * network_seconds(w) * q for w, q in zip(workloads, quirks, strict=True)]
    assert mape(truth, mean) < 5
    assert np.all(upper >= mean)
    # processes are up to 4 % slower than the one that metered: the bound allows for it
    assert made.energy.coverage == 0.875  # what seven networks can promise
    assert coverage(1.03 * np.array(truth), upper) == pytest.approx(0.875, abs=0.06)
    assert "energy: error on" in "\n".join(describe_profile(made))


def test_too_little_time_for_energy_says_how_much_is_needed(gpu: FakeNvml) -> None:
    made = profiled(SimulatedDevice(0.01))
    assert made.energy is None
    assert made.power is not None
    assert "too little was metered" in made.power.why_not
    assert "`nas profile --time" in "\n".join(describe_profile(made))


def test_the_state_of_the_gpu_is_kept_and_told(gpu: FakeNvml, tmp_path: Path) -> None:
    gpu.reasons = 0x4
    made = profiled(SimulatedDevice(0.01), out=tmp_path / "gpu.json")
    environment = made.environment
    assert environment is not None
    assert (environment.driver, environment.power_limit_w) == ("580.1", 400.0)
    assert environment.states.throttled[0] == environment.states.throttled[-1] == ["sw_power_cap"]
    assert environment.states.sm_clock_mhz[-1] == 1410
    assert environment.affinity
    assert "5%" in environment.warm_up
    assert made.device.peak_flops["bf16"] == pytest.approx(312e12, rel=0.01)
    assert load_profile(tmp_path / "gpu.json") == made
    told = "\n".join(describe_profile(made))
    assert "throttled: sw_power_cap in 100%" in told
    assert "energy: simulated counter, of" in told
    assert "idle at 60" in told
    assert gpu.open == 0


def test_a_slow_episode_is_told_and_marked(gpu: FakeNvml) -> None:
    calm = profiled(SimulatedDevice(0.005))
    assert calm.anchor is not None
    begin = 0.2 * calm.anchor.times_s[-1]  # in the first process; the others are slow throughout
    late = SimulatedDevice(0.005, episodes=((begin, 1e9, 1.3),), sensitivity=0.5)
    made = profiled(late, time_limit_s=30.0)
    assert made.anchor is not None
    assert made.anchor.retried > 0
    assert np.mean(np.array(made.anchor.relative) > made.anchor.slow_above) > 0.5
    unstable = [o.timing.unstable for o in made.ops]
    assert np.mean(unstable) > 0.5
    told = "\n".join(describe_profile(made))
    assert "readings were repeated" in told
    assert "stayed unstable" in told


def test_a_gpu_whose_energy_cannot_be_read_says_so(gpu: FakeNvml, tmp_path: Path) -> None:
    gpu.unsupported = ("nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetPowerUsage")
    gpu.install(pytest.MonkeyPatch())
    device = SimulatedDevice(0.01)
    made = profiled(device)
    assert not any("meter" in request for request in device.requests)
    assert made.power is not None
    assert made.power.why_not.startswith("not measurable here: ")
    assert not any(n.energy for n in made.networks)
    assert "energy: not measurable here: " in "\n".join(describe_profile(made))


def test_every_runtime_of_a_gpu_is_profiled(gpu: FakeNvml) -> None:
    for runtime, native in (("eager", "fp32"), ("compile", "fp16")):
        device = SimulatedDevice(0.01)
        made = profiled(device, require_harness("cuda:0", runtime, native, flush_l2=True))
        assert (made.runtime.name, made.runtime.native) == (runtime, native)
        assert made.precisions == [native]
        assert made.environment is not None
        assert made.environment.l2_flushed
        arguments = device.requests[0]["stopwatch"]["arguments"]
        assert arguments == {"mode": runtime, "device": "cuda:0", "flush_l2": True}
        latency_predictor(made)


def test_a_gpu_that_is_not_here_or_not_usable_is_said(
    gpu: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MeasureError, match="number 1"):
        require_device(require_harness("cuda:1"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MeasureError, match=r"cannot use NVIDIA A100"):
        require_device(GPU)
    FakeNvml(unsupported=("nvmlInit",)).install(monkeypatch)
    with pytest.raises(MeasureError, match="no NVIDIA GPU here"):
        profiled(SimulatedDevice())


def test_energy_is_measured_of_networks_and_ops_in_turn() -> None:
    classes = ["linear"] * 7 + ["gelu"] * 3
    order = energy_order(3, classes, np.random.default_rng(0))
    assert sorted(order) == list(range(13))
    assert [i < 3 for i in order[:6]] == [True, False] * 3
    assert {classes[i - 3] for i in order[1:4:2]} == {"linear", "gelu"}
