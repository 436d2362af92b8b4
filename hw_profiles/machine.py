"""What this machine is: its processor, and the NVIDIA GPUs that its driver shows."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import psutil

from hw_profiles.errors import MeasureError
from hw_profiles.profile import Device


def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def this_cpu() -> Device:
    """This machine's processor: name, the cores this process may use, and memory."""
    return Device(
        name=_processor_name(),
        vendor=platform.machine(),
        kind="cpu",
        cores=len(affinity()) or os.cpu_count(),
        memory_bytes=psutil.virtual_memory().total,
        source=f"read on this machine ({platform.system()} {platform.release()})",
    )


def nvidia_gpus() -> list[str]:
    """One line a GPU that the NVIDIA driver shows; empty where there is no driver or no GPU."""
    from hw_profiles.nvml import open_gpu

    found: list[str] = []
    while True:
        try:
            with open_gpu(len(found)) as gpu:
                memory = gpu.memory_bytes or 0
                found.append(f"cuda:{len(found)} {gpu.name} {memory / 2**30:.0f} GiB")
        except MeasureError:
            return found


def affinity() -> list[int]:
    """Cores that this process may use, in order; empty where the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
