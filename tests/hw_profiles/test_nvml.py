"""NVML's figures of a GPU, on a fake one: state, throttling, peaks, and what it does not tell."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from fake_nvml import FakeNvml
from hypothesis import given
from hypothesis import strategies as st

from hw_profiles.errors import MeasureError
from hw_profiles.machine import nvidia_gpus
from hw_profiles.nvml import REASONS, THROTTLES, open_gpu, reason_names
from hw_profiles.watch import Watch

STATE = (
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetTemperature",
    "nvmlDeviceGetPowerUsage",
    "nvmlDeviceGetPerformanceState",
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
)


def test_state_and_peaks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml(reasons=0x4 | 0x40).install(monkeypatch)
    with open_gpu() as gpu:
        state, device = gpu.state(), gpu.device()
        assert (gpu.driver, gpu.power_limit_w) == ("580.1", 400.0)
    assert fake.open == 0
    assert (state.sm_clock_mhz, state.memory_clock_mhz) == (1410, 1593)
    assert (state.temperature_c, state.power_w, state.performance_state) == (61, 100.0, 0)
    assert state.throttled == ["sw_power_cap", "hw_thermal_slowdown"]
    # the vendor's sheet has 312 TFLOP/s in bf16, 19.5 in fp32, and 2039 GB/s
    assert device.cores == 108
    assert device.peak_flops["bf16"] == pytest.approx(312e12, rel=0.002)
    assert device.peak_flops["fp32"] == pytest.approx(19.5e12, rel=0.002)
    assert device.bandwidth_bytes_per_s == pytest.approx(2039e9, rel=0.001)
    assert nvidia_gpus() == ["cuda:0 NVIDIA A100-SXM4-80GB 80 GiB"]


@pytest.mark.parametrize(
    ("name", "capability", "cores", "tflops"),
    [
        ("Tesla V100-SXM2-32GB", (7, 0), 5120, 125.0),
        ("Tesla T4", (7, 5), 2560, 65.0),
        ("NVIDIA GeForce RTX 3090", (8, 6), 10496, 71.0),
        ("NVIDIA A10", (8, 6), 9216, 125.0),
        ("NVIDIA L40S", (8, 9), 18176, 362.0),
        ("NVIDIA H100 80GB HBM3", (9, 0), 16896, 989.0),
        ("NVIDIA Next", (99, 0), 20000, None),
    ],
)
def test_peaks_are_those_of_the_sheets_at_their_clocks(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capability: tuple[int, int],
    cores: int,
    tflops: float | None,
) -> None:
    clocks = {"V100": 1530, "T4": 1590, "3090": 1695, "A10": 1695, "L40S": 2520, "H100": 1830}
    fake = FakeNvml(power=lambda when: 1.0)
    clock = next((mhz for part, mhz in clocks.items() if part in name), 1000)
    fake.nvmlDeviceGetName = lambda handle: name  # type: ignore[method-assign]
    fake.nvmlDeviceGetCudaComputeCapability = lambda handle: capability  # type: ignore[method-assign]
    fake.nvmlDeviceGetNumGpuCores = lambda handle: cores  # type: ignore[method-assign]
    fake.nvmlDeviceGetMaxClockInfo = lambda handle, kind: clock  # type: ignore[method-assign]
    fake.install(monkeypatch)
    with open_gpu() as gpu:
        device = gpu.device()
    if tflops is None:
        assert (device.peak_flops, device.cores) == ({}, None)
    else:
        assert device.peak_flops["fp16"] == pytest.approx(tflops * 1e12, rel=0.015)
        assert ("bf16" in device.peak_flops) is (capability >= (8, 0))


def test_fields_that_a_gpu_does_not_have_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    other = ("nvmlDeviceGetPowerManagementLimit", "nvmlDeviceGetMaxClockInfo")
    FakeNvml(unsupported=(*STATE, *other)).install(monkeypatch)
    with open_gpu() as gpu:
        assert set(vars(gpu.state()).values()) == {None}
        assert gpu.power_limit_w is None
        assert gpu.device().peak_flops == {}
        assert gpu.device().bandwidth_bytes_per_s is None
    with Watch("cuda:0") as watch:
        pass
    states = watch.states()
    assert len(states.times_s) == 2
    assert states.throttled == states.sm_clock_mhz == []


def test_old_drivers_have_the_old_name_of_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    unsupported = ("nvmlDeviceGetCurrentClocksEventReasons",)
    FakeNvml(unsupported=unsupported, reasons=0x8).install(monkeypatch)
    with open_gpu() as gpu:
        assert gpu.state().throttled == ["hw_slowdown"]


@given(st.integers(0, 2**64 - 1))
def test_every_reason_has_a_name_of_its_own(bits: int) -> None:
    names = reason_names(bits)
    assert names is not None
    assert len(set(names)) == bits.bit_count()
    back = {name: bit for bit, name in REASONS.items()}
    assert sum(back.get(name) or int(name, 16) for name in names) == bits


def test_throttles_are_reasons() -> None:
    assert set(REASONS.values()) > THROTTLES


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNvml(count=1).install(monkeypatch)
    with pytest.raises(MeasureError, match="number 3: 1 can be seen"), open_gpu(3):
        pass
    FakeNvml(unsupported=("nvmlInit",)).install(monkeypatch)
    with pytest.raises(MeasureError, match="no NVIDIA GPU here"), open_gpu():
        pass
    assert nvidia_gpus() == []


@pytest.mark.parametrize(
    ("visible", "index", "found"),
    [
        ("1,0", 0, 1),
        ("1", 0, 1),
        ("GPU-abc", 0, 0),
        ("GPU-a", 0, 0),  # CUDA takes the beginning of a UUID
        ("GPU-", 0, None),
        ("", 0, None),
        ("1", 1, None),
        ("GPU-x", 0, None),
    ],
)
def test_gpus_are_numbered_as_pytorch_does(
    monkeypatch: pytest.MonkeyPatch, visible: str, index: int, found: int | None
) -> None:
    fake = FakeNvml(count=2).install(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if found is None:
        with pytest.raises(MeasureError), open_gpu(index):
            pass
    else:
        with open_gpu(index) as gpu:
            assert gpu.handle == found
    assert fake.open == 0


@pytest.mark.parametrize("visible", [None, "0", "GPU-abc", "GPU-a"])
def test_a_divided_gpu_is_asked_for_its_slice(
    monkeypatch: pytest.MonkeyPatch, visible: str | None
) -> None:
    FakeNvml(mig=1).install(monkeypatch)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(MeasureError, match="divided by MIG") as caught, open_gpu():
        pass
    assert "CUDA_VISIBLE_DEVICES" in caught.value.hint


def test_a_watch_reads_before_during_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeNvml().install(monkeypatch)
    with Watch("cuda:0", every_s=0.01) as watch:
        time.sleep(0.05)
        fake.reasons, fake.clocks = 0x20, (900, 1593)
        time.sleep(0.05)
    assert fake.open == 0
    states = watch.states()
    assert len(states.times_s) > 4
    assert states.times_s == sorted(states.times_s)
    assert (states.sm_clock_mhz[0], states.sm_clock_mhz[-1]) == (1410, 900)
    assert (states.throttled[0], states.throttled[-1]) == ([], ["sw_thermal_slowdown"])
    assert (watch.driver, watch.power_limit_w) == ("580.1", 400.0)


def test_a_cpu_has_no_state_to_watch(tmp_path: Path) -> None:
    with Watch("cpu") as watch:
        pass
    assert watch.states().times_s == []
