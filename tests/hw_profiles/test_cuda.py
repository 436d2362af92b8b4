"""The CUDA runtime without a GPU: its ops on a CPU, its events and graphs on stand-ins."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from hw_profiles.errors import MeasureError, UsageError
from hw_profiles.harness import NATIVES, RUNTIMES, Harness, require_harness
from hw_profiles.op import KINDS, Op
from hw_profiles.profiler import COPIES, anchor_job, idle_job, op_job
from hw_profiles.runtimes import cuda
from hw_profiles.runtimes.stopwatch import time_calls, warm_up
from hw_profiles.runtimes.torch_ops import DTYPES
from hw_profiles.runtimes.worker import make

OPS = [
    Op("linear", (17, 64, 48)),
    Op("attention", (1, 2, 17, 17, 16)),
    Op("conv2d", (2, 8, 9, 7, 16, 3, 2, 1, 1)),
    Op("conv1d", (2, 8, 50, 16, 3, 1, 1, 1)),
    Op("pool", (1, 16, 7, 7, 7, 1)),
    Op("embedding", (12, 30, 64)),
    *[Op(kind, (17, 64)) for kind in KINDS if KINDS[kind].fields == ("rows", "width")],
]


# --- calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize("native", ["bf16", "fp16", "fp32"])
def test_every_op_runs_in_every_float_type(native: str) -> None:
    assert {op.kind for op in OPS} == set(KINDS)
    for op in OPS:
        call = cuda.op_call(
            op.kind, list(op.shape), native, copies=2, mode="eager", device="cpu", native=native
        )
        outputs: Any = call()
        assert [y.numel() for y in outputs] == [op.writes] * 2
        assert {y.dtype for y in outputs} == {DTYPES[native]}
        assert not outputs[0].requires_grad
        assert not torch.equal(*outputs)  # of tensors of their own


def test_other_precisions_and_modes_are_refused() -> None:
    with pytest.raises(MeasureError, match="runs no int8"):
        cuda.op_call("linear", [4, 4, 4], "int8", mode="eager", device="cpu")
    with pytest.raises(MeasureError, match="no mode"):
        cuda.prepared(lambda: None, "jit")


def test_more_shapes_than_the_compilers_limit_are_compiled_each() -> None:
    compiled: list[int] = []

    def backend(graph: Any, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        compiled.append(len(compiled))
        return graph.forward  # type: ignore[no-any-return]

    calls = []
    for n in range(12):
        network, x = nn.Sequential(nn.Linear(8 + n, 4), nn.ReLU()), torch.randn(3, 8 + n)

        def call(network: nn.Module = network, x: torch.Tensor = x) -> torch.Tensor:
            return network(x)  # type: ignore[no-any-return]

        calls.append((call, cuda.prepared(call, "compile", options={"backend": backend})))
    for _ in range(2):
        for plain, made in calls:
            torch.testing.assert_close(made(), plain())
    assert len(compiled) == 12


class Graphs:
    """In place of `torch.cuda`: what is run while a graph is captured is replayed by it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        graphs = self

        class Graph:
            def replay(self) -> None:
                graphs.log.append("replay")

        class Stream:
            def wait_stream(self, other: object) -> None:
                graphs.log.append("wait")

        @contextmanager
        def capture(graph: Graph) -> Iterator[None]:
            graphs.log.append("capture")
            yield
            graphs.log.append("captured")

        stand_ins = {
            "set_device": lambda device: self.log.append(str(device)),
            "Stream": Stream,
            "current_stream": Stream,
            "stream": lambda stream: nullcontext(),
            "CUDAGraph": Graph,
            "graph": capture,
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)


def test_a_graph_is_captured_warm_and_then_only_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(monkeypatch)
    made = cuda.prepared(lambda: graphs.log.append("call"), "cudagraph", "cuda:1")
    expected = ["cuda:1", "wait", *["call"] * 3, "wait", "capture", "call", "captured"]
    assert graphs.log == expected
    made()
    made()
    assert graphs.log == [*expected, "replay", "replay"]


def test_a_graph_keeps_the_tensors_that_it_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    Graphs(monkeypatch)
    weight = torch.ones(3)
    alive = weakref.ref(weight)

    def call(weight: torch.Tensor = weight) -> torch.Tensor:
        return weight + 1

    made = cuda.prepared(call, "cudagraph")
    del call, weight
    gc.collect()
    assert alive() is not None
    del made
    gc.collect()
    assert alive() is None


def test_what_cannot_be_captured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    Graphs(monkeypatch)
    calls: list[int] = []

    def call() -> None:
        calls.append(1)
        if len(calls) > cuda.BEFORE_CAPTURE:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    with pytest.raises(MeasureError, match=r"captured as a CUDA graph \(operation not permitted"):
        cuda.prepared(call, "cudagraph")


def test_ops_of_compiled_networks_are_graphs_of_their_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs = Graphs(monkeypatch)
    arguments = {"mode": "compile", "device": "cpu", "native": "bf16"}
    cuda.op_call("gelu", [17, 64], "bf16", **arguments)
    assert "captured" in graphs.log


# --- timing -------------------------------------------------------------------------------------


class Gpu:
    """In place of `torch.cuda`: a stream whose work takes the time that calls say."""

    def __init__(self) -> None:
        self.stream_ms = 0.0
        self.log: list[str] = []
        gpu = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self) -> None:
                self.ms = gpu.stream_ms
                gpu.log.append("record")

            def synchronize(self) -> None:
                gpu.log.append("synchronize")

            def elapsed_time(self, end: Event) -> float:
                return end.ms - self.ms

        self.Event = Event

    def set_device(self, device: str) -> None:
        self.log.append(device)

    def _sleep(self, cycles: int) -> None:
        self.log.append("fill")
        self.stream_ms += cycles / 1.5e6

    def synchronize(self) -> None:
        self.log.append("wait")

    def kernel(self, ms: float, name: str = "call") -> Callable[[], None]:
        def call() -> None:
            self.log.append(name)
            self.stream_ms += ms

        return call


@pytest.mark.parametrize(
    ("mode", "fills"), [("cudagraph", True), ("eager", False), ("compile", False)]
)
def test_windows_lie_between_events(mode: str, fills: bool) -> None:
    gpu = Gpu()
    watch = cuda.EventStopwatch(mode, "cuda:2", cuda=gpu)
    assert watch.window(gpu.kernel(0.25), 4) == pytest.approx(1e-3)
    fill = ["fill"] if fills else []
    expected = ["cuda:2", *fill, "record", *["call"] * 4, "record", "synchronize"]
    assert gpu.log == expected
    assert ("no host time" in watch.title) is fills


def test_short_calls_get_windows_that_events_resolve() -> None:
    gpu = Gpu()
    watch = cuda.EventStopwatch("cudagraph", cuda=gpu)
    call = gpu.kernel(0.003)
    calls = warm_up(watch, call)
    assert calls == pytest.approx(cuda.WINDOW_S / 3e-6, rel=0.01)
    median, spread = time_calls(watch, call, 0.005, calls)
    assert median == pytest.approx(3e-6)
    assert spread < 1e-9


def test_the_flush_is_not_in_the_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu()

    class Buffer:
        zero_ = staticmethod(gpu.kernel(1.0, "flush"))

    monkeypatch.setattr(torch, "empty", lambda *a, **k: Buffer)
    watch = cuda.EventStopwatch("eager", flush_l2=True, cuda=gpu)
    assert watch.window(gpu.kernel(0.5), 2) == pytest.approx(1e-3)
    # The call is issued to an idle GPU, or its launch would be hidden behind the flush.
    one = ["flush", "wait", "record", "call", "record", "synchronize"]
    assert gpu.log == ["cuda:0", *one, *one]
    assert "overwritten" in watch.title
    assert watch.least_s == 0  # each call is a window


# --- harness ------------------------------------------------------------------------------------


def test_every_harness_names_factories_that_exist() -> None:
    for kind in RUNTIMES:
        for runtime in RUNTIMES[kind]:
            harness = require_harness(kind, runtime)
            jobs = [
                idle_job(harness),
                anchor_job(harness),
                op_job(OPS[0].at(harness.native), harness),
            ]
            named = [job.factory for job in jobs]
            named += [
                part["factory"]
                for part in (*harness.energy_request.values(), *harness.request.values())
            ]
            for factory in named:
                module, _, function = factory.partition(":")
                assert callable(getattr(__import__(module, fromlist=[function]), function))


def test_defaults_belong_to_the_device() -> None:
    assert require_harness("cpu") == Harness("onnxruntime", "cpu", "fp32")
    assert require_harness("cuda:3").device == "cuda:3"
    assert require_harness("cuda:3").index == 3
    assert require_harness("cuda", threads=4).native == NATIVES["cuda"][0] == "bf16"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "tpu"}, "--device cpu, cuda or cuda:1"),
        ({"device": "cuda:x"}, "cannot be measured"),
        ({"device": "cuda:"}, "cannot be measured"),
        ({"device": "cpu:0"}, "cannot be measured"),
        ({"device": "cpu", "runtime": "cudagraph"}, "Choose one of onnxruntime, eager, openvino"),
        ({"device": "cuda", "runtime": "torch"}, "Choose one of cudagraph, eager, compile"),
        ({"device": "cpu", "native": "bf16"}, "Choose one of fp32"),
        ({"device": "cpu", "threads": 0}, "1 or more"),
        ({"device": "cpu", "flush_l2": True}, "for GPUs"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        require_harness(**options)
    assert says in str(caught.value)


def test_a_graph_of_small_ops_outlasts_its_launch() -> None:
    gpu = Harness("cudagraph", "cuda:0", "bf16")
    small, large = (Op("linear", (m, k, k), "bf16") for m, k in ((17, 64), (8192, 4096)))
    jobs = op_job(small, gpu), op_job(large, gpu)
    assert [job.copies for job in jobs] == [64, 4]
    assert [job.hold for job in jobs] == [True, False]  # what is kept must fit beside the rest
    table = op_job(Op("embedding", (256, 50_000, 768), "bf16"), gpu)
    assert table.copies < 8
    assert op_job(Op("linear", (17, 64, 64)), Harness()).copies == COPIES


def test_the_meter_of_a_request_is_made() -> None:
    with make(Harness().energy_request["meter"]) as meter:
        assert meter.available or "not measurable here" in meter.why_not
