"""Ops as small ONNX graphs, built of the operators that whole networks are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hw_profiles.errors import MeasureError
from hw_profiles.op import PRECISIONS, Op

#: Tokens that a random input is made of.
TOKENS = 8
OPSET, IR_VERSION = 20, 10
_MICROSOFT = "com.microsoft"
#: Random numbers drawn for a weight; a larger one repeats them, to be made faster.
DRAWN = 2**16
#: Rows of an embedding's table that are stored: those that tokens of random runs ask for.
STORED_ROWS = 64


class _Graph:
    """Collects the nodes, inputs and weights of copies of one op.

    Every copy reads inputs of its own: a session merges nodes that compute the same.
    """

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: dict[str, tuple[int, tuple[int, ...]]] = {}  # element type and shape
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.rng = np.random.default_rng(0)

    def x(self, *shape: int, dtype: int = TensorProto.FLOAT) -> str:
        """A further input."""
        name = f"x{len(self.inputs)}"
        self.inputs[name] = dtype, shape
        return name

    def put(self, array: NDArray[np.generic]) -> str:
        """A weight."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def normal(self, *shape: int) -> str:
        """A random float32 weight."""
        drawn = self.rng.standard_normal(min(DRAWN, math.prod(shape)), dtype=np.float32)
        return self.put(np.resize(drawn, shape))

    def ints(self, *values: int) -> str:
        """A small integer list, such as a shape."""
        return self.put(np.array(values, np.int64))

    def node(
        self, op: str, inputs: list[str], n: int = 1, domain: str = "", **attributes: object
    ) -> list[str]:
        """A node with n outputs, whose names are returned."""
        names = [f"t{len(self.nodes)}_{i}" for i in range(n)]
        node = helper.make_node(op, inputs, names, domain=domain)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
        self.nodes.append(node)
        return names

    def model(self) -> onnx.ModelProto:
        """The whole graph."""
        inputs = [
            helper.make_tensor_value_info(name, dtype, shape)
            for name, (dtype, shape) in self.inputs.items()
        ]
        outputs = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.outputs.items()
        ]
        graph = helper.make_graph(self.nodes, "op", inputs, outputs, self.weights)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


_Built = tuple[str, tuple[int, ...]]


def _linear(g: _Graph, precision: str, m: int, k: int, n: int) -> _Built:
    x, shape = g.x(1, m, k), (1, m, n)
    if precision == "int8":
        weight = g.put(g.rng.integers(-64, 65, (k, n), np.int8))
        scale = g.put(np.full(n, 0.01, np.float32))
        inputs = [x, weight, scale, "", g.normal(n)]
        return g.node("DynamicQuantizeMatMul", inputs, domain=_MICROSOFT)[0], shape
    if precision == "int4_wo":
        block = PRECISIONS[precision].weight_group
        blocks = -(-k // block)
        weight = g.put(g.rng.integers(0, 256, (n, blocks, block // 2), np.uint8))
        inputs = [x, weight, g.put(np.full((n, blocks), 0.01, np.float32))]
        sizes = {"K": k, "N": n, "bits": 4, "block_size": block, "accuracy_level": 1}
        (y,) = g.node("MatMulNBits", inputs, domain=_MICROSOFT, **sizes)
    elif precision == "fp32":
        (y,) = g.node("MatMul", [x, g.normal(k, n)])
    else:
        raise MeasureError(
            f"ONNX Runtime has no {precision} linear layer here.", "It offers fp32, int8, int4_wo."
        )
    return g.node("Add", [y, g.normal(n)])[0], shape


def _attention(
    g: _Graph, precision: str, batch: int, heads: int, queries: int, keys: int, width: int
) -> _Built:
    if queries != keys:
        raise MeasureError("only self-attention is measured.", "Give as many keys as queries.")
    inner = heads * width
    qkv = g.x(batch, queries, 3 * inner)
    split = g.node("Split", [qkv, g.ints(inner, inner, inner)], 3, axis=-1)
    apart = g.ints(batch, queries, heads, width)
    q, k, v = (g.node("Reshape", [part, apart])[0] for part in split)
    (q,) = g.node("Transpose", [q], perm=[0, 2, 1, 3])
    (k,) = g.node("Transpose", [k], perm=[0, 2, 3, 1])
    (v,) = g.node("Transpose", [v], perm=[0, 2, 1, 3])
    scale = g.put(np.array(width**-0.25, np.float32))
    (q,) = g.node("Mul", [q, scale])
    (k,) = g.node("Mul", [k, scale])
    (scores,) = g.node("MatMul", [q, k])
    (shares,) = g.node("Softmax", [scores], axis=-1)
    (mixed,) = g.node("MatMul", [shares, v])
    (mixed,) = g.node("Transpose", [mixed], perm=[0, 2, 1, 3])
    shape = (batch, queries, inner)
    return g.node("Reshape", [mixed, g.ints(*shape)])[0], shape


def _layer_norm(g: _Graph, precision: str, rows: int, width: int) -> _Built:
    inputs = [g.x(1, rows, width), g.normal(width), g.normal(width)]
    return g.node("LayerNormalization", inputs, axis=-1)[0], (1, rows, width)


def _rms_norm(g: _Graph, precision: str, rows: int, width: int) -> _Built:
    x = g.x(1, rows, width)
    (squares,) = g.node("Pow", [x, g.put(np.array(2, np.float32))])
    (mean,) = g.node("ReduceMean", [squares, g.ints(-1)], keepdims=1)
    (mean,) = g.node("Add", [mean, g.put(np.array(1e-6, np.float32))])
    (root,) = g.node("Sqrt", [mean])
    (scale,) = g.node("Reciprocal", [root])
    (y,) = g.node("Mul", [x, scale])
    return g.node("Mul", [y, g.normal(width)])[0], (1, rows, width)


def _activation(name: str, **attributes: object) -> Callable[..., _Built]:
    """A builder of an operator of one input."""

    def build(g: _Graph, precision: str, rows: int, width: int) -> _Built:
        return g.node(name, [g.x(1, rows, width)], **attributes)[0], (1, rows, width)  # type: ignore[arg-type]

    return build


def _silu(g: _Graph, precision: str, rows: int, width: int) -> _Built:
    x = g.x(1, rows, width)
    (gate,) = g.node("Sigmoid", [x])
    return g.node("Mul", [x, gate])[0], (1, rows, width)


def _binary(name: str) -> Callable[..., _Built]:
    """A builder of an operator of two equal inputs."""

    def build(g: _Graph, precision: str, rows: int, width: int) -> _Built:
        inputs = [g.x(1, rows, width), g.x(1, rows, width)]
        return g.node(name, inputs)[0], (1, rows, width)

    return build


def _rotary(g: _Graph, precision: str, rows: int, width: int) -> _Built:
    half = width // 2
    x = g.x(1, rows, width)
    first, second = g.node("Split", [x, g.ints(half, width - half)], 2, axis=-1)
    (minus,) = g.node("Neg", [second])
    (turned,) = g.node("Concat", [minus, first], axis=-1)
    (a,) = g.node("Mul", [x, g.normal(rows, width)])
    (b,) = g.node("Mul", [turned, g.normal(rows, width)])
    return g.node("Add", [a, b])[0], (1, rows, width)


def _copy(g: _Graph, precision: str, rows: int, width: int) -> _Built:
    return g.node("Transpose", [g.x(rows, width)], perm=[1, 0])[0], (width, rows)


def _embedding(g: _Graph, precision: str, rows: int, entries: int, width: int) -> _Built:
    tokens = g.x(1, rows, dtype=TensorProto.INT64)
    table = g.normal(min(entries, STORED_ROWS), width)
    return g.node("Gather", [table, tokens])[0], (1, rows, width)


def _pool(
    g: _Graph, precision: str, batch: int, channels: int, h: int, w: int, kernel: int, stride: int
) -> _Built:
    x = g.x(batch, channels, h, w)
    if kernel == h == w:
        return g.node("ReduceMean", [x, g.ints(2, 3)], keepdims=1)[0], (batch, channels, 1, 1)
    shape = (batch, channels, (h - kernel) // stride + 1, (w - kernel) // stride + 1)
    sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}
    return g.node("AveragePool", [x], **sizes)[0], shape  # type: ignore[arg-type]


def _conv(g: _Graph, batch: int, i: int, sides: tuple[int, ...], *rest: int) -> _Built:
    o, kernel, stride, padding, groups = rest
    n = len(sides)
    inputs = [g.x(batch, i, *sides), g.normal(o, i // groups, *[kernel] * n), g.normal(o)]
    sizes = {
        "kernel_shape": [kernel] * n,
        "strides": [stride] * n,
        "pads": [padding] * 2 * n,
        "group": groups,
    }
    out = [(side + 2 * padding - kernel) // stride + 1 for side in sides]
    return g.node("Conv", inputs, **sizes)[0], (batch, o, *out)  # type: ignore[arg-type]


def _conv2d(g: _Graph, precision: str, batch: int, i: int, h: int, w: int, *rest: int) -> _Built:
    return _conv(g, batch, i, (h, w), *rest)


def _conv1d(g: _Graph, precision: str, batch: int, i: int, length: int, *rest: int) -> _Built:
    return _conv(g, batch, i, (length,), *rest)


_BUILDERS: dict[str, Callable[..., _Built]] = {
    "linear": _linear,
    "attention": _attention,
    "conv2d": _conv2d,
    "conv1d": _conv1d,
    "pool": _pool,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "relu": _activation("Relu"),
    "gelu": _activation("Gelu"),
    "silu": _silu,
    "hardswish": _activation("HardSwish"),
    "hardsigmoid": _activation("HardSigmoid", alpha=1 / 6),
    "add": _binary("Add"),
    "mul": _binary("Mul"),
    "rotary": _rotary,
    "copy": _copy,
}


def op_graph(*ops: Op, copies: int = 1) -> onnx.ModelProto:
    """A float32 ONNX model that computes ops so many times, on random weights.

    Raises:
        MeasureError: if ONNX Runtime does not run such an op.
    """
    graph = _Graph()
    for op in ops * copies:
        output, shape = _BUILDERS[op.kind](graph, op.precision, *op.shape)
        graph.outputs[output] = shape
    return graph.model()


def idle_graph() -> onnx.ModelProto:
    """A model that does next to nothing: what a call costs by itself."""
    graph = _Graph()
    graph.outputs[graph.node("Neg", [graph.x(1)])[0]] = (1,)
    return graph.model()
