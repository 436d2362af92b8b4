"""PyTorch on an NVIDIA GPU, in three ways: eager, compiled, and replayed as a CUDA graph.

Calls return before the GPU is done; they are timed by CUDA events on the GPU's own clock. A graph's
figure holds no host time: the queue is filled before the window begins. Eager and compiled calls
are launched one by one in the window, and what the host cannot hide is theirs.

Ops of `compile` are timed as graphs of their eager kernels: compiled one by one they would fuse
with nothing and take minutes. What fusion saves is found by the calibration on whole networks.
"""

from __future__ import annotations

import itertools
import time
import types
from typing import Any

import torch

from hw_profiles.errors import MeasureError, first_line
from hw_profiles.op import Op
from hw_profiles.runtimes.stopwatch import Call, Stopwatch
from hw_profiles.runtimes.torch_ops import Tensors, one_after_another, without_gradients

MODES = ("eager", "compile", "cudagraph")
#: Events resolve half a microsecond: a window of this length is exact to 0.1 %.
WINDOW_S = 1e-3
#: Load after which the clock is the working one.
CLOCK_S = 1.0
#: Cycles that the GPU waits while the host fills its queue: 0.2 ms at 1.5 GHz.
FILL_CYCLES = 300_000
#: Bytes that are overwritten to flush a second-level cache; the largest is 126 MB.
FLUSH_BYTES = 2**28
#: Calls before a graph is captured: libraries choose and allocate in the first ones.
BEFORE_CAPTURE = 3
_numbers = itertools.count()
# float32 is measured as such: convolutions alone would run in TF32 by default
torch.backends.cudnn.allow_tf32 = False


def _mix(native: str) -> list[Op]:
    """A layer of a vision transformer for eight images, bound by arithmetic and by memory."""
    rows, width = 8 * 197, 384
    return [
        Op("layer_norm", (rows, width), native),
        Op("linear", (rows, width, 3 * width), native),
        Op("attention", (8, 6, 197, 197, 64), native),
        Op("linear", (rows, width, width), native),
        Op("add", (rows, width), native),
        Op("linear", (rows, width, 4 * width), native),
        Op("gelu", (rows, 4 * width), native),
        Op("linear", (rows, 4 * width, width), native),
    ] * 4


# --- calls --------------------------------------------------------------------------------------


def prepared(call: Any, mode: str, device: str = "cuda:0", options: Any = None) -> Call:
    """A call as a runtime runs it.

    Args:
        call: a plain function without arguments.
        mode: one of `MODES`.
        device: that a graph is captured on.
        options: further arguments of `torch.compile`.

    Raises:
        MeasureError: if there is no such mode.
    """
    if mode == "eager":
        return without_gradients(call)
    if mode == "compile":
        return without_gradients(compiled(call, **(options or {})))
    if mode == "cudagraph":
        return captured(without_gradients(call), device)
    raise MeasureError(f"PyTorch has no mode {mode!r}.", f"Choose one of {', '.join(MODES)}.")


def compiled(call: Any, **options: Any) -> Call:
    """The function compiled whole, for these shapes only.

    It gets a code object of its own: the compiler keeps what it made by code object, and after
    eight shapes for one of them it silently falls back to eager.
    """
    code = call.__code__.replace(co_name=f"call_{next(_numbers)}")
    own = types.FunctionType(
        code, call.__globals__, code.co_name, call.__defaults__, call.__closure__
    )
    made: Call = torch.compile(own, fullgraph=True, dynamic=False, **options)
    return made


def captured(call: Call, device: str) -> Call:
    """The call's kernels as a graph that is replayed.

    A graph holds addresses, not tensors: what the call reads and writes stays alive with it.

    Raises:
        MeasureError: if the call cannot be captured.
    """
    torch.cuda.set_device(device)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(BEFORE_CAPTURE):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            outputs = call()
    except RuntimeError as error:
        raise MeasureError(
            f"a network cannot be captured as a CUDA graph ({first_line(error)}).",
            "Use --runtime eager.",
        ) from None

    def replay(kept: object = (call, outputs)) -> None:
        graph.replay()

    return replay


def op_call(
    kind: str,
    shape: list[int],
    precision: str,
    copies: int = 1,
    mode: str = "cudagraph",
    device: str = "cuda:0",
    native: str = "bf16",
) -> Call:
    """So many calls of an op, one after another, each on tensors of its own.

    Raises:
        MeasureError: if the precision is not the native one.
    """
    ops = [Op(kind, tuple(shape), precision)] * copies
    call = one_after_another(ops, Tensors(device, native))
    return prepared(call, "cudagraph" if mode == "compile" else mode, device)


def mix_call(mode: str = "cudagraph", device: str = "cuda:0", native: str = "bf16") -> Call:
    """A fixed mix of ops."""
    call = one_after_another(_mix(native), Tensors(device, native))
    return prepared(call, "cudagraph" if mode == "compile" else mode, device)


def idle_call(mode: str = "cudagraph", device: str = "cuda:0", native: str = "bf16") -> Call:
    """A call that launches nothing: launching overlaps with the work before it."""
    return without_gradients(lambda: None)


# --- timing -------------------------------------------------------------------------------------


class EventStopwatch:
    """CUDA events around a window of calls.

    Args:
        mode: of the runtime; a graph's window begins when the queue is filled.
        device: whose stream is timed.
        flush_l2: overwrite the cache before every call and leave that out of the figure; each
            call is then a window of its own.
        cuda: `torch.cuda`, or what stands in for it.
    """

    def __init__(
        self,
        mode: str = "cudagraph",
        device: str = "cuda:0",
        flush_l2: bool = False,
        cuda: Any = torch.cuda,
    ) -> None:
        self._cuda = cuda
        cuda.set_device(device)
        self._fills = mode == "cudagraph"
        self._buffer: Any = None
        if flush_l2:
            self._buffer = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=device)
        self.least_s = 0.0 if flush_l2 else WINDOW_S
        self.first_s = CLOCK_S
        host = "no host time" if self._fills else "with the launches that the host cannot hide"
        self.title = (
            "CUDA events around each call, the cache overwritten before it"
            if flush_l2
            else f"CUDA events around windows of {1e3 * WINDOW_S:g} ms and more, {host}"
        )

    def now(self) -> float:
        """The host's clock: when a window was, not how long it took."""
        return time.perf_counter()

    def window(self, call: Call, calls: int) -> float:
        """Seconds that so many calls take together."""
        if self._buffer is not None:
            return sum(self._timed(call, 1) for _ in range(calls))
        return self._timed(call, calls)

    def _timed(self, call: Call, calls: int) -> float:
        cuda = self._cuda
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        if self._buffer is not None:
            self._buffer.zero_()
        if self._fills:
            cuda._sleep(FILL_CYCLES)
        elif self._buffer is not None:
            cuda.synchronize()  # else the call is issued while the cache is overwritten
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def stopwatch(mode: str, device: str, flush_l2: bool) -> Stopwatch:
    """The stopwatch of a worker."""
    return EventStopwatch(mode, device, flush_l2)


def synchronizer(device: str) -> Call:
    """A call that waits until the GPU is done."""
    return lambda: torch.cuda.synchronize(device)
