"""An NVML without a GPU: pynvml's names over a device whose power and clocks a test sets."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml
import pytest


def missing(*_: object) -> None:
    """What the driver says of a field that a GPU does not have."""
    raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


@dataclass
class FakeNvml:
    """One GPU.

    Attributes:
        power: watts at a moment; a step function of time is integrated exactly enough.
        counter_step_s: time between refreshes of the energy counter.
        unsupported: names of functions that this GPU does not have.
        reasons: bit mask of clock-event reasons.
        mig: whether it is divided into slices.
    """

    now: Callable[[], float] = time.perf_counter
    power: Callable[[float], float] = lambda when: 100.0
    counter_step_s: float = 0.1
    unsupported: tuple[str, ...] = ()
    reasons: int = 0
    count: int = 1
    mig: int = 0
    clocks: tuple[int, int] = (1410, 1593)
    open: int = 0
    _energy: list[float] = field(default_factory=lambda: [0.0, 0.0])  # moment, mJ

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
        """Put it in pynvml's place."""
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self._energy[0] = self.now()
        for name in dir(self):
            if name.startswith("nvml"):
                ours = missing if name in self.unsupported else getattr(self, name)
                monkeypatch.setattr(pynvml, name, ours)
        return self

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetCount(self) -> int:
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index >= self.count:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return index

    def nvmlDeviceGetHandleByUUID(self, name: str) -> int:
        if name != "GPU-abc":
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return 0

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return ("GPU-abc", "GPU-def")[handle]

    def nvmlDeviceGetMigMode(self, handle: int) -> tuple[int, int]:
        return self.mig, self.mig

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA A100-SXM4-80GB"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:
        return SimpleNamespace(total=80 * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        return round(1e3 * self.power(self.now()))

    def nvmlDeviceGetPowerManagementLimit(self, handle: int) -> int:
        return 400_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:
        """Advanced in whole steps only, each at the power of its middle."""
        when, energy = self._energy
        while when + self.counter_step_s <= self.now():
            energy += 1e3 * self.counter_step_s * self.power(when + self.counter_step_s / 2)
            when += self.counter_step_s
        self._energy = [when, energy]
        return round(energy)

    def nvmlDeviceGetClockInfo(self, handle: int, kind: int) -> int:
        return self.clocks[kind == pynvml.NVML_CLOCK_MEM]

    def nvmlDeviceGetMaxClockInfo(self, handle: int, kind: int) -> int:
        return (1410, 1593)[kind == pynvml.NVML_CLOCK_MEM]

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        return 61

    def nvmlDeviceGetPerformanceState(self, handle: int) -> int:
        return 0

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: int) -> int:
        return self.reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: int) -> int:
        return self.reasons

    def nvmlDeviceGetMemoryBusWidth(self, handle: int) -> int:
        return 5120

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return 8, 0

    def nvmlDeviceGetNumGpuCores(self, handle: int) -> int:
        return 108 * 64
