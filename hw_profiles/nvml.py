"""NVIDIA GPUs through NVML: what they are, and their clocks, temperature and throttling.

Every field may be missing on some GPU: what the driver does not support there is None, and where
there is no driver, no GPU is found. NVML numbers GPUs by their bus, PyTorch by
`CUDA_VISIBLE_DEVICES`: `open_gpu` translates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

from hw_profiles.errors import MeasureError
from hw_profiles.gpus import cycle_flops
from hw_profiles.profile import Device

T = TypeVar("T")
#: Bits of the clock-event reasons (nvml.h) and their names; of a reason that slows, and not for
#: lack of work or on the user's own wish, `THROTTLES` has the name.
REASONS = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
THROTTLES = frozenset(
    (
        "sw_power_cap",
        "hw_slowdown",
        "sw_thermal_slowdown",
        "hw_thermal_slowdown",
        "hw_power_brake_slowdown",
    )
)


def known(read: Callable[..., T], *arguments: Any) -> T | None:
    """What an NVML function returns, or None where the GPU or driver does not tell."""
    try:
        return read(*arguments)
    except pynvml.NVMLError:
        return None


def reason_names(bits: int | None) -> list[str] | None:
    """Names of the reasons in a bit mask; one that has no name here is shown by its bit.

    >>> reason_names(0x24), reason_names(0), reason_names(1 << 20)
    (['sw_power_cap', 'sw_thermal_slowdown'], [], ['0x100000'])
    """
    if bits is None:
        return None
    set_bits = [1 << i for i in range(bits.bit_length()) if bits >> i & 1]
    return [REASONS.get(bit, hex(bit)) for bit in set_bits]


@dataclass(frozen=True)
class GpuState:
    """One reading of a GPU's state; a field that it does not tell is None.

    Attributes:
        performance_state: 0 is the fastest.
        throttled: names of the active clock-event reasons.
    """

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    performance_state: int | None
    throttled: list[str] | None


class Gpu:
    """One GPU while NVML is open."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def state(self) -> GpuState:
        """Its state now."""
        power = known(pynvml.nvmlDeviceGetPowerUsage, self.handle)
        return GpuState(
            known(pynvml.nvmlDeviceGetClockInfo, self.handle, pynvml.NVML_CLOCK_SM),
            known(pynvml.nvmlDeviceGetClockInfo, self.handle, pynvml.NVML_CLOCK_MEM),
            known(pynvml.nvmlDeviceGetTemperature, self.handle, pynvml.NVML_TEMPERATURE_GPU),
            None if power is None else power / 1e3,
            known(pynvml.nvmlDeviceGetPerformanceState, self.handle),
            reason_names(known(_reasons, self.handle)),
        )

    @property
    def name(self) -> str:
        """As the driver has it."""
        return str(known(pynvml.nvmlDeviceGetName, self.handle) or "NVIDIA GPU")

    @property
    def memory_bytes(self) -> int | None:
        """All of it."""
        memory = known(pynvml.nvmlDeviceGetMemoryInfo, self.handle)
        return None if memory is None else int(memory.total)

    @property
    def power_limit_w(self) -> float | None:
        """Above which the driver slows it down."""
        limit = known(pynvml.nvmlDeviceGetPowerManagementLimit, self.handle)
        return None if limit is None else limit / 1e3

    @property
    def driver(self) -> str:
        """Version of the driver."""
        return str(known(pynvml.nvmlSystemGetDriverVersion) or "")

    def device(self) -> Device:
        """What it is, with the peaks that its clocks, units and bus allow."""
        clock = known(pynvml.nvmlDeviceGetMaxClockInfo, self.handle, pynvml.NVML_CLOCK_SM)
        memory_clock = known(pynvml.nvmlDeviceGetMaxClockInfo, self.handle, pynvml.NVML_CLOCK_MEM)
        width = known(pynvml.nvmlDeviceGetMemoryBusWidth, self.handle)
        major, minor = known(pynvml.nvmlDeviceGetCudaComputeCapability, self.handle) or (0, 0)
        cores = known(pynvml.nvmlDeviceGetNumGpuCores, self.handle)
        flops = cycle_flops(self.name, 10 * major + minor)
        multiprocessors = None
        peaks: dict[str, float] = {}
        if cores and flops is not None:
            multiprocessors = 2 * cores // flops.plain
            if clock:
                cycles = multiprocessors * clock * 1e6
                peaks = {"fp16": flops.matrix * cycles, "fp32": flops.plain * cycles}
                if major >= 8:
                    peaks["bf16"] = flops.matrix * cycles
        # two transfers a cycle, in bits of the bus
        bandwidth = memory_clock * 1e6 * 2 * width / 8 if memory_clock and width else None
        return Device(
            name=self.name,
            vendor="NVIDIA",
            kind="cuda",
            cores=multiprocessors,
            memory_bytes=self.memory_bytes,
            bandwidth_bytes_per_s=bandwidth,
            peak_flops=peaks,
            source="read through NVML; peaks from the highest clocks, the units a multiprocessor "
            "has by compute capability, and the width of the memory bus",
        )


def _reasons(handle: Any) -> int:
    """Bit mask of clock-event reasons, by the name that old drivers have too."""
    newer = getattr(pynvml, "nvmlDeviceGetCurrentClocksEventReasons", None)
    bits = None if newer is None else known(newer, handle)
    if bits is None:
        bits = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return int(bits)


def _handle(index: int) -> Any:
    """Of the GPU that PyTorch numbers so.

    Raises:
        MeasureError: if there is no such GPU, or it is divided into slices of which none is named.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [str(index)]
    count = pynvml.nvmlDeviceGetCount()
    if visible is not None:
        named = [part.strip() for part in visible.split(",") if part.strip()][index : index + 1]
        count = len([part for part in visible.split(",") if part.strip()])
    if not named or index >= count:
        raise MeasureError(
            f"no NVIDIA GPU here has number {index}: {count} can be seen.",
            "See `nas doctor` and CUDA_VISIBLE_DEVICES.",
        )
    try:
        if named[0].isdigit():
            handle = pynvml.nvmlDeviceGetHandleByIndex(int(named[0]))
        else:
            handle = pynvml.nvmlDeviceGetHandleByUUID(_whole_uuid(named[0]))
    except pynvml.NVMLError as error:
        raise MeasureError(
            f"the NVIDIA driver refuses GPU {named[0]} ({error}).", "See `nvidia-smi`."
        ) from None
    current, _ = known(pynvml.nvmlDeviceGetMigMode, handle) or (0, 0)
    if current == pynvml.NVML_DEVICE_MIG_ENABLE and not named[0].startswith("MIG-"):
        raise MeasureError(
            f"GPU {named[0]} is divided by MIG: PyTorch sees a slice, the driver the whole board.",
            "Name the slice in CUDA_VISIBLE_DEVICES; `nvidia-smi -L` lists them.",
        )
    return handle


def _whole_uuid(name: str) -> str:
    """The UUID that a name is, or the only one of a GPU that begins with it, as CUDA takes both."""
    handles = [
        known(pynvml.nvmlDeviceGetHandleByIndex, i) for i in range(pynvml.nvmlDeviceGetCount())
    ]
    uuids = [str(known(pynvml.nvmlDeviceGetUUID, handle)) for handle in handles]
    begun = [uuid for uuid in uuids if uuid.startswith(name)]
    return begun[0] if len(begun) == 1 else name


@contextmanager
def open_gpu(index: int = 0) -> Iterator[Gpu]:
    """A GPU by PyTorch's number while the context is open.

    Raises:
        MeasureError: if there is no driver, or no such GPU.
    """
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise MeasureError(
            f"no NVIDIA GPU here (NVML: {error}).", "Run `nas profile` on the machine that has it."
        ) from None
    try:
        yield Gpu(_handle(index))
    finally:
        pynvml.nvmlShutdown()
