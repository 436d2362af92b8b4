"""What this machine is: its processor, and the NVIDIA GPUs that its driver shows."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import psutil

from hw_profiles.errors import MeasureError
from hw_profiles.profile import Device


def processor_name(cpuinfo: str, board: str) -> str:
    """What Linux calls a processor, empty if it does not: ARM has no names of models.

    Args:
        cpuinfo: text of `/proc/cpuinfo`.
        board: text of `/proc/device-tree/model`.
    """

    def told(field: str) -> list[str]:
        lines = (line.partition(":") for line in cpuinfo.splitlines())
        return [value.strip() for name, _, value in lines if name.strip() == field]

    makers, parts = told("CPU implementer"), told("CPU part")
    kinds = dict.fromkeys(f"{m} part {p}" for m, p in zip(makers, parts, strict=False))
    cores = f"CPU implementer {' and '.join(kinds)}" if kinds else ""
    return next(iter(told("model name")), "") or board.partition("\0")[0].strip() or cores


def _processor_name() -> str:
    found = processor_name(_text("/proc/cpuinfo"), _text("/proc/device-tree/model"))
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = done.stdout.strip()
    return found or platform.processor() or platform.machine()


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


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
