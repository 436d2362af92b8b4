"""Every op kind, in each runtime: its shapes, its counts, and the operators of real networks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hw_profiles.errors import MeasureError
from hw_profiles.op import KINDS, Op
from hw_profiles.runtimes import eager as in_eager
from hw_profiles.runtimes import onnxruntime as in_onnxruntime
from hw_profiles.runtimes.op_graphs import op_graph

OPS = [
    Op("linear", (17, 64, 64)),
    Op("linear", (17, 16, 48), "int8"),
    Op("linear", (17, 24, 48), "int4_wo"),
    Op("attention", (1, 2, 17, 17, 16)),
    Op("conv2d", (1, 1, 8, 8, 16, 2, 2, 0, 1)),
    Op("conv2d", (2, 8, 9, 7, 16, 3, 2, 1, 1)),
    Op("conv2d", (1, 24, 8, 8, 24, 5, 1, 2, 24)),
    Op("conv2d", (1, 16, 8, 8, 24, 1, 1, 0, 1)),
    Op("conv1d", (1, 1, 400, 16, 10, 5, 0, 1)),
    Op("conv1d", (2, 32, 50, 32, 128, 1, 64, 16)),
    Op("pool", (1, 16, 7, 7, 7, 1)),
    Op("pool", (2, 16, 8, 6, 2, 2)),
    Op("embedding", (12, 256, 64)),
    Op("embedding", (12, 9, 16)),
    *[Op(kind, (17, 64)) for kind in KINDS if KINDS[kind].fields == ("rows", "width")],
    Op("rotary", (17, 15)),
]


def name(op: Op) -> str:
    return f"{op.kind}-{'x'.join(map(str, op.shape))}-{op.precision}"


def test_no_kind_is_missing() -> None:
    assert {op.kind for op in OPS} == set(KINDS)


@pytest.mark.parametrize("op", OPS, ids=name)
def test_a_graph_has_the_ops_own_shapes_and_copies_stay_apart(op: Op) -> None:
    model = op_graph(op, copies=3)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = in_onnxruntime.random_inputs(session)
    outputs = session.run(None, feeds)
    assert len(outputs) == 3
    assert outputs[0].size == op.writes
    assert np.isfinite(outputs[0]).all()
    read = 3 * (op.shape[0] if op.kind == "embedding" else op.reads)  # a token stands for a row
    assert sum(feed.size for feed in feeds.values()) == read
    weights = [math.prod(w.dims) for w in model.graph.initializer if w.data_type == 1]
    if op.precision == "fp32" and op.kind not in ("embedding", "rotary"):
        assert sum(weights) >= 3 * op.weights


@pytest.mark.parametrize("op", [op for op in OPS if op.precision == "fp32"], ids=name)
def test_an_eager_call_has_the_ops_own_counts(op: Op) -> None:
    call = in_eager.op_call(op.kind, list(op.shape), "fp32")
    # the counter does not know the fused attention of CPUs
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs = call()
    assert isinstance(outputs, list)
    assert [y.numel() for y in outputs] == [op.writes]
    assert counter.get_total_flops() == 2 * op.macs


@pytest.mark.parametrize("op", [op for op in OPS if op.precision == "fp32"], ids=name)
def test_openvino_computes_the_same(op: Op) -> None:
    pytest.importorskip("openvino")
    from hw_profiles.runtimes import openvino as in_openvino

    data = op_graph(op, copies=2).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    feeds = in_onnxruntime.random_inputs(session)
    compiled = in_openvino.compiled(data, 1)
    found = compiled([feeds[port.any_name] for port in compiled.inputs])
    for i, expected in enumerate(session.run(None, feeds)):
        np.testing.assert_allclose(found[i], expected, atol=1e-4)
    in_openvino.op_call(op.kind, list(op.shape), "fp32")()


FUNCTIONS: dict[str, Callable[..., torch.Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "add": torch.add,
    "mul": torch.mul,
    "copy": torch.t,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_graphs_of_functions_compute_them(kind: str) -> None:
    model = op_graph(Op(kind, (5, 8)))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {k: 3 * v for k, v in in_onnxruntime.random_inputs(session).items()}
    expected = FUNCTIONS[kind](*map(torch.from_numpy, feeds.values()))
    np.testing.assert_allclose(session.run(None, feeds)[0], expected.numpy(), atol=1e-5)


def test_whole_images_and_windows_are_pooled() -> None:
    for shape, window in (((1, 4, 6, 6, 6, 1), 6), ((1, 4, 6, 6, 2, 2), 2)):
        data = op_graph(Op("pool", shape)).SerializeToString()
        session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
        feeds = in_onnxruntime.random_inputs(session)
        expected = F.avg_pool2d(torch.from_numpy(feeds["x0"]), window)
        np.testing.assert_allclose(session.run(None, feeds)[0], expected.numpy(), atol=1e-6)


def test_tokens_are_small_integers() -> None:
    data = op_graph(Op("embedding", (40, 9, 4))).SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    tokens = in_onnxruntime.random_inputs(session)["x0"]
    assert tokens.dtype == np.int64
    assert set(tokens.ravel()) <= set(range(9))
    assert len(set(tokens.ravel())) > 3


def test_quantized_ops_are_the_operators_of_quantized_networks() -> None:
    kinds = {n.op_type for n in op_graph(OPS[1], OPS[2]).graph.node}
    assert {"DynamicQuantizeMatMul", "MatMulNBits"} <= kinds


@pytest.mark.parametrize(
    "op", [Op("linear", (4, 4, 4), "bf16"), Op("attention", (1, 1, 4, 5, 8))], ids=str
)
def test_what_is_not_run_is_refused(op: Op) -> None:
    with pytest.raises(MeasureError):
        op_graph(op)
    if op.kind == "linear":
        with pytest.raises(MeasureError):
            in_eager.op_call(op.kind, list(op.shape), op.precision)
