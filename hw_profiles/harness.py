"""Which runtime on which device is measured, and how a measuring process is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hw_profiles.errors import UsageError
from hw_profiles.machine import this_cpu
from hw_profiles.profile import RuntimeName

#: Runtimes of each kind of device, the default first, and their native float types.
RUNTIMES: Mapping[str, tuple[RuntimeName, ...]] = {
    "cpu": ("onnxruntime", "eager", "openvino"),
    "cuda": ("cudagraph", "eager", "compile"),
}
NATIVES: Mapping[str, tuple[Literal["fp32", "bf16", "fp16"], ...]] = {
    "cpu": ("fp32",),
    "cuda": ("bf16", "fp16", "fp32"),
}
#: Quantized precisions that linear ops are timed in. On a GPU their kernels are torchao's, which
#: is no dependency.
QUANTIZED: Mapping[RuntimeName, tuple[str, ...]] = {"onnxruntime": ("int8", "int4_wo")}


@dataclass(frozen=True)
class Harness:
    """A runtime on a device of this machine.

    Attributes:
        runtime: one of `RUNTIMES` for the device.
        device: `cpu`, or `cuda:i` for the GPU that PyTorch numbers so.
        native: the type of all unquantized arithmetic.
        threads: of one call on a CPU.
        flush_l2: overwrite a GPU's cache before every timed call.
    """

    runtime: RuntimeName = "onnxruntime"
    device: str = "cpu"
    native: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: int = 1
    flush_l2: bool = False

    @property
    def kind(self) -> Literal["cpu", "cuda"]:
        """Of the device."""
        return "cpu" if self.device == "cpu" else "cuda"

    @property
    def index(self) -> int:
        """Number of the GPU; 0 for a CPU."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def precisions(self) -> list[str]:
        """What linear ops are timed in, the native type first."""
        return [self.native, *QUANTIZED.get(self.runtime, ())]

    @property
    def module(self) -> str:
        """That makes the calls: op_call, mix_call, idle_call."""
        name = self.runtime if self.kind == "cpu" else "cuda"
        return f"hw_profiles.runtimes.{name}"

    @property
    def replays_ops(self) -> bool:
        """Whether ops are timed as graphs, in whose time there is nothing of the host's."""
        return self.kind == "cuda" and self.runtime != "eager"

    @property
    def arguments(self) -> dict[str, Any]:
        """Of every factory of calls."""
        if self.kind == "cpu":
            return {"threads": self.threads}
        return {"mode": self.runtime, "device": self.device, "native": self.native}

    @property
    def request(self) -> dict[str, Any]:
        """What a measuring process is told besides its jobs."""
        if self.kind == "cpu":
            return {}
        arguments = {"mode": self.runtime, "device": self.device, "flush_l2": self.flush_l2}
        return {"stopwatch": {"factory": f"{self.module}:stopwatch", "arguments": arguments}}

    @property
    def energy_request(self) -> dict[str, Any]:
        """What a process that measures energy is told besides its jobs."""
        meter = {"factory": "hw_profiles.energy:open_meter", "arguments": {"device": self.device}}
        if self.kind == "cpu":
            return {"meter": meter}
        arguments = {"device": self.device}
        wait = {"factory": f"{self.module}:synchronizer", "arguments": arguments}
        return {"meter": meter, "synchronize": wait}


def require_harness(
    device: str,
    runtime: str | None = None,
    native: str | None = None,
    threads: int = 1,
    flush_l2: bool = False,
) -> Harness:
    """The harness that options ask for.

    Args:
        device: `cpu`, `cuda` (the first GPU) or `cuda:i`.
        runtime: the device's default unless given.
        native: the device's default unless given.
        threads: of one call on a CPU.
        flush_l2: overwrite a GPU's cache before every timed call.

    Raises:
        UsageError: if they do not go together.

    >>> require_harness("cuda").runtime, require_harness("cpu").native
    ('cudagraph', 'fp32')
    """
    kind, colon, index = device.partition(":")
    numbered = not colon or (kind == "cuda" and index.isascii() and index.isdigit())
    if kind not in RUNTIMES or not numbered:
        raise UsageError(f"{device!r} cannot be measured.", "Use --device cpu, cuda or cuda:1.")
    chosen = next((r for r in RUNTIMES[kind] if r == (runtime or RUNTIMES[kind][0])), None)
    if chosen is None:
        known = ", ".join(RUNTIMES[kind])
        raise UsageError(f"{kind} is not profiled in {runtime!r}.", f"Choose one of {known}.")
    held = next((n for n in NATIVES[kind] if n == (native or NATIVES[kind][0])), None)
    if held is None:
        known = ", ".join(NATIVES[kind])
        raise UsageError(f"{kind} is not profiled in {native!r}.", f"Choose one of {known}.")
    if threads < 1:
        raise UsageError(f"threads cannot be {threads}.", "Give 1 or more.")
    cores = this_cpu().cores
    if kind == "cpu" and cores is not None and threads > cores:
        raise UsageError(
            f"{threads} threads are more than the cores here.", f"Give {cores} at most."
        )
    if flush_l2 and kind == "cpu":
        raise UsageError("--flush-l2 is for GPUs.", "Leave it out.")
    place = "cpu" if kind == "cpu" else f"cuda:{int(index or 0)}"
    return Harness(chosen, place, held, threads, flush_l2)
