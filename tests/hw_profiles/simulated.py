"""A device with known costs, noise, process offsets and drift, on a clock that only it advances.

The profiler's own worker runs on it in this process: what is simulated is the hardware alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

import search_spaces
from hw_profiles.energy import EnergyMeter
from hw_profiles.op import Op
from hw_profiles.runtimes import worker
from hw_profiles.runtimes.stopwatch import Call
from nas.candidate import Candidate
from nas.probes import Probe

ANCHOR_S = 4e-4
IDLE_W, LOAD_W = 60.0, 240.0
#: Making a call takes the machine this long.
MAKING_S = 1e-3


def op_seconds(op: Op) -> float:
    """A launch, arithmetic at 20 TFLOP/s and memory at 400 GB/s."""
    return 4e-6 + op.macs / 1e13 + 2 * (op.reads + op.writes + op.weights) / 4e11


def network_seconds(ops: Sequence[Op]) -> float:
    """A constant, and each op a fifth faster than alone: its launch overlaps."""
    return 2e-5 + sum(0.8 * op_seconds(op) for op in ops)


def memory_bound(op: Op) -> bool:
    """Whether the drift of such an op is not the anchor's."""
    return op.kind != "linear"


_space = cache(search_spaces.get)


def draw(name: str) -> float:
    """A standard normal number that belongs to a name."""
    return float(np.random.default_rng(list(name.encode())).standard_normal())


@dataclass
class SimulatedCall:
    """A call of known time; calling it takes that time of the device's clock."""

    device: SimulatedDevice
    seconds: float
    sensitivity: float = 1.0

    def __call__(self) -> None:
        self.device.take(self, 1)


@dataclass
class SimulatedDevice:
    """The device.

    Attributes:
        noise: relative standard deviation of a window.
        offsets: relative slowness of each process, in turn.
        episodes: (begin, end, slowness) in the device's own time; memory-bound ops are slowed by
            only `sensitivity` of it.
        layout: relative standard deviation of a call from process to process: where its memory
            happens to lie.
        quirk: of a network from the sum of its ops, the same in every process and session.
    """

    noise: float = 0.01
    offsets: tuple[float, ...] = (0.0,)
    episodes: tuple[tuple[float, float, float], ...] = ()
    sensitivity: float = 1.0
    layout: float = 0.0
    quirk: float = 0.0
    seed: int = 0
    title: str = "simulated clock"
    least_s: float = 1e-3
    first_s: float = 0.0
    clock_s: float = 0.0
    processes: int = 0
    energy_mj: float = 0.0
    requests: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    # the device

    def slowness(self) -> float:
        """Of the machine just now, by episodes alone."""
        found = 1.0
        for begin, end, by in self.episodes:
            if begin <= self.clock_s < end:
                found = by
        return found

    def take(self, call: SimulatedCall, calls: int) -> float:
        """Let so many calls pass."""
        offset = self.offsets[(self.processes - 1) % len(self.offsets)]
        slow = 1 + call.sensitivity * (self.slowness() - 1)
        noise = float(np.exp(self.noise * self._rng.standard_normal()))
        took = calls * call.seconds * (1 + offset) * slow * noise
        self.clock_s += took
        self.energy_mj += 1e3 * LOAD_W * took
        return took

    def idle(self, seconds: float) -> None:
        """Let time pass."""
        self.clock_s += seconds
        self.energy_mj += 1e3 * IDLE_W * seconds

    # the stopwatch

    def now(self) -> float:
        return self.clock_s

    def window(self, call: Call, calls: int) -> float:
        assert isinstance(call, SimulatedCall)
        return self.take(call, calls)

    # the process

    def process(self, request: dict[str, Any], threads: int) -> dict[str, Any]:
        """In place of a real measuring process."""
        self.processes += 1
        self.requests.append(dict(request))
        run = worker.run_energy if "meter" in request else worker.run
        return run(request, self, self.make)

    def make(self, job: dict[str, Any]) -> Any:
        """The call, meter or synchronizer that a request names."""
        made: dict[str, Callable[..., Any]] = {
            "op_call": self._op,
            "mix_call": lambda **_: SimulatedCall(self, ANCHOR_S),
            "idle_call": lambda **_: SimulatedCall(self, 1e-9),
            "torch_call": self._network,
            "open_meter": lambda **_: SimulatedMeter(self),
            "synchronizer": lambda **_: lambda: None,
        }
        self.idle(MAKING_S)
        return made[job["factory"].partition(":")[2]](**job["arguments"])

    def _op(
        self, kind: str, shape: list[int], precision: str, copies: int, **_: object
    ) -> SimulatedCall:
        op = Op(kind, tuple(shape), precision)
        seconds = copies * op_seconds(op) * self._layout(repr(op))
        return SimulatedCall(self, seconds, self.sensitivity if memory_bound(op) else 1.0)

    def _layout(self, name: str) -> float:
        """Slowness of a call in this process."""
        return 1 + self.layout * draw(f"{self.seed} {self.processes} {name}")

    def _network(
        self, space: str, preset: str, architecture: Any, batch_size: int, native: str, **_: object
    ) -> SimulatedCall:
        probe = Probe(_space(space, preset), Candidate(architecture, {}), False)
        seconds = network_seconds(probe.workload(batch_size, native))
        name = repr(sorted(architecture.items()))
        seconds *= (1 + self.quirk * draw(name)) * self._layout(name)
        return SimulatedCall(self, seconds)


class SimulatedMeter(EnergyMeter):
    """The device's energy, in steps of 10 ms."""

    method = "simulated counter"

    def __init__(self, device: SimulatedDevice) -> None:
        self.device = device
        self._step = -1
        self._shown = 0.0

    def read_mj(self) -> float:
        step = int(self.device.clock_s / 0.01)
        if step != self._step:
            self._step, self._shown = step, self.device.energy_mj
        return self._shown

    def now(self) -> float:
        return self.device.clock_s

    def wait(self, seconds: float) -> None:
        self.device.idle(seconds)
