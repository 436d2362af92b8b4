"""What this machine is: its processor, and the NVIDIA GPUs that its driver shows."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

import psutil

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
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Device(
        name=_processor_name(),
        vendor=platform.machine(),
        kind="cpu",
        cores=allowed,
        memory_bytes=psutil.virtual_memory().total,
        source=f"read on this machine ({platform.system()} {platform.release()})",
    )


def nvidia_gpus() -> list[str]:
    """One line a GPU that the NVIDIA driver shows; empty where there is no driver or no GPU."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
            found.append(
                f"cuda:{index} {pynvml.nvmlDeviceGetName(handle)} {memory / 2**30:.0f} GiB"
            )
        return found
    finally:
        pynvml.nvmlShutdown()
