"""The ONNX nodes of one linear layer under each scheme."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from ml_dtypes import float8_e4m3fn
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

from nas.quantization.arithmetic import (
    block_int4,
    channel_int8,
    rows_fp8,
    symmetric_rows,
    tinygemm_int4,
)
from nas.quantization.schemes import (
    CMSIS_INT8,
    GRAPH_FP8,
    GRAPH_INT4,
    GRAPH_INT8,
    GRAPH_INT8_WO,
    ORT_INT4,
    ORT_INT8,
    Scheme,
    schemes_of,
)

MICROSOFT = "com.microsoft"
TO_FP8 = "Cast to float8"
Parts = tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]]]
NodeFactory = Callable[["GraphLinear"], Parts]
Count = Callable[[Counter[str]], int]


@dataclass(frozen=True)
class GraphLinear:
    """A linear layer of a graph, y = x W^T + b.

    Attributes:
        name: of its module.
        x, output, bias: names of tensors; the bias may be "".
        weight: (out, in) float32.
        nodes: that compute it, the product first.
    """

    name: str
    x: str
    output: str
    bias: str
    weight: Tensor
    nodes: tuple[onnx.NodeProto, ...]

    @classmethod
    def find(cls, graph: onnx.GraphProto, product: onnx.NodeProto) -> GraphLinear:
        """The layer around its MatMul or Gemm node."""
        held = {i.name: i for i in graph.initializer}
        transposed = any(a.name == "transB" and a.i for a in product.attribute)
        weight = torch.from_numpy(numpy_helper.to_array(held[product.input[1]]).copy())
        nodes = [product]
        bias = product.input[2] if len(product.input) > 2 else ""
        users = [n for n in graph.node if product.output[0] in n.input]
        if not bias and len(users) == 1 and users[0].op_type == "Add":
            (other,) = [i for i in users[0].input if i != product.output[0]] or [""]
            if other in held and len(held[other].dims) == 1:
                bias = other
                nodes.append(users[0])
        return cls(
            product.name,
            product.input[0],
            nodes[-1].output[0],
            bias,
            (weight if transposed else weight.T).contiguous(),
            tuple(nodes),
        )

    def biased(self, product: str) -> list[onnx.NodeProto]:
        """The node that adds the bias to a product of that name, if there is a bias."""
        if not self.bias:
            return []
        return [helper.make_node("Add", [product, self.bias], [self.output], f"{self.name}.bias")]

    @property
    def product(self) -> str:
        """Name of the product before the bias."""
        return f"{self.name}.product" if self.bias else self.output


@dataclass(frozen=True)
class _Nodes:
    make: NodeFactory
    count: Count


#: (runtime, quantized scheme) -> them.
NODES: dict[tuple[str, str], _Nodes] = {}


def register_nodes(scheme: Scheme, count: Count) -> Callable[[NodeFactory], NodeFactory]:
    """Register `linear -> (nodes, initializers)` as what computes a layer in a quantized scheme.

    Args:
        scheme: of them.
        count: from a graph's number of operators of each type, how many of its linears are so
            held. Casts to float8 are of the type `TO_FP8`.
    """

    def add(make: NodeFactory) -> NodeFactory:
        NODES[scheme.runtime, scheme.name] = _Nodes(make, count)
        return make

    return add


def _bytes(q: Tensor) -> NDArray[np.generic]:
    """Integers (out, in) as int8 (in, out)."""
    return np.ascontiguousarray(q.T.numpy().astype(np.int8))


def _packed(codes: Tensor) -> NDArray[np.generic]:
    """Codes in 0..15 of shape (out, blocks, block) as bytes (out, blocks, block / 2)."""
    c = codes.numpy().astype(np.uint8)
    packed: NDArray[np.generic] = c[..., 0::2] | (c[..., 1::2] << 4)
    return packed


def _ort_int8_count(found: Counter[str]) -> int:
    """ONNX Runtime may part the operator, or fuse its parts otherwise."""
    return sum(
        found[op] for op in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger")
    )


@register_nodes(ORT_INT8, _ort_int8_count)
def _ort_int8(linear: GraphLinear) -> Parts:
    q, scale = channel_int8(linear.weight)
    name = linear.name
    inputs = [linear.x, f"{name}.q", f"{name}.scale", "", linear.bias]
    node = helper.make_node(
        "DynamicQuantizeMatMul", inputs, [linear.output], name, domain=MICROSOFT
    )
    return [node], {f"{name}.q": _bytes(q), f"{name}.scale": scale.numpy()}


def _matmul_nbits(linear: GraphLinear, block: int, inputs: list[str]) -> list[onnx.NodeProto]:
    node = helper.make_node(
        "MatMulNBits",
        [linear.x, *inputs],
        [linear.product],
        linear.name,
        domain=MICROSOFT,
        K=linear.weight.shape[1],
        N=linear.weight.shape[0],
        bits=4,
        block_size=block,
        accuracy_level=1,  # activations stay float32; higher levels quantize them too
    )
    return [node, *linear.biased(linear.product)]


@register_nodes(ORT_INT4, lambda found: found["MatMulNBits"])
def _ort_int4(linear: GraphLinear) -> Parts:
    q, scale = block_int4(linear.weight)
    name = linear.name
    nodes = _matmul_nbits(linear, ORT_INT4.group_size, [f"{name}.q", f"{name}.scale"])
    # the operator's implied zero point is 8
    return nodes, {f"{name}.q": _packed(q + 8), f"{name}.scale": scale.numpy()}


@register_nodes(GRAPH_INT4, lambda found: found["MatMulNBits"])
def _graph_int4(linear: GraphLinear) -> Parts:
    codes, scale, zero = (t.float() for t in tinygemm_int4(linear.weight.bfloat16()))
    name = linear.name
    inputs = [f"{name}.q", f"{name}.scale", f"{name}.zero"]
    point = 8 - zero / scale  # (code - point) * scale = (code - 8) * scale + zero
    arrays = (_packed(codes), scale.squeeze(-1).numpy(), point.squeeze(-1).numpy())
    nodes = _matmul_nbits(linear, GRAPH_INT4.group_size, inputs)
    return nodes, dict(zip(inputs, arrays, strict=True))


def _dequantized(linear: GraphLinear, x: str, product: str) -> Parts:
    """x times int8 weights that are scaled back where they are read."""
    q, scale = symmetric_rows(linear.weight.bfloat16())
    name = linear.name
    weight = f"{name}.dequantized"  # the float weight of the graph may be `name.weight`
    nodes = [
        helper.make_node(
            "DequantizeLinear", [f"{name}.q", f"{name}.scale"], [weight], f"{weight}.int8", axis=1
        ),
        helper.make_node("MatMul", [x, weight], [product], name),
    ]
    return nodes, {f"{name}.q": _bytes(q), f"{name}.scale": scale.flatten().numpy()}


@register_nodes(
    GRAPH_INT8_WO, lambda found: found["DequantizeLinear"] - found["Round"] - found[TO_FP8]
)
def _graph_int8_wo(linear: GraphLinear) -> Parts:
    nodes, arrays = _dequantized(linear, linear.x, linear.product)
    return [*nodes, *linear.biased(linear.product)], arrays


@register_nodes(GRAPH_INT8, lambda found: found["Round"])
def _graph_int8(linear: GraphLinear) -> Parts:
    """Symmetric scales of tokens in plain operators: ONNX has no operator of that granularity."""
    name = linear.name
    low, high = GRAPH_INT8.activation_range
    arrays: dict[str, NDArray[np.generic]] = {
        f"{name}.axis": np.array([-1]),
        f"{name}.levels": np.array((high - low) / 2, np.float32),
        f"{name}.least": np.array(np.finfo(np.float32).eps, np.float32),
        f"{name}.low": np.array(low, np.float32),
        f"{name}.high": np.array(high, np.float32),
    }

    def node(op: str, inputs: str, output: str) -> onnx.NodeProto:
        names = [linear.x if i == "x" else f"{name}.{i}" for i in inputs.split()]
        return helper.make_node(op, names, [f"{name}.{output}"], f"{name}.{output}")

    before = [
        node("Abs", "x", "abs"),
        node("ReduceMax", "abs axis", "max"),
        node("Div", "max levels", "share"),
        node("Max", "share least", "token_scale"),
        node("Div", "x token_scale", "scaled"),
        node("Round", "scaled", "rounded"),
        node("Clip", "rounded low high", "xq"),
    ]
    nodes, weights = _dequantized(linear, f"{name}.xq", f"{name}.sums")
    scaled = helper.make_node(
        "Mul", [f"{name}.sums", f"{name}.token_scale"], [linear.product], f"{name}.rescaled"
    )
    return [*before, *nodes, scaled, *linear.biased(linear.product)], arrays | weights


@register_nodes(GRAPH_FP8, lambda found: found[TO_FP8])
def _graph_fp8(linear: GraphLinear) -> Parts:
    """float8 numbers under scales of tokens and channels, in standard operators."""
    name = linear.name
    weight, channel_scale = rows_fp8(linear.weight.bfloat16())
    arrays: dict[str, NDArray[np.generic]] = {
        f"{name}.axis": np.array([-1]),
        f"{name}.largest": np.array(GRAPH_FP8.activation_range[1], np.float32),
        f"{name}.least": np.array(np.finfo(np.float32).tiny, np.float32),
        f"{name}.q": np.ascontiguousarray(weight.T.numpy()).astype(float8_e4m3fn),
        f"{name}.scale": channel_scale.flatten().numpy(),
    }

    def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
        names = [linear.x if i == "x" else f"{name}.{i}" for i in inputs.split()]
        return helper.make_node(op, names, [f"{name}.{output}"], f"{name}.{output}", **attributes)

    nodes = [
        node("Abs", "x", "abs"),
        node("ReduceMax", "abs axis", "max"),
        node("Div", "max largest", "share"),
        node("Max", "share least", "token_scale"),
        node("Div", "x token_scale", "scaled"),
        # casts: ONNX Runtime fuses a pair of quantizing operators into one that has no float8
        node("Cast", "scaled", "xq", to=onnx.TensorProto.FLOAT8E4M3FN),
        node("Cast", "xq", "held", to=onnx.TensorProto.FLOAT),
        node("DequantizeLinear", "q scale", "dequantized", axis=1),
        helper.make_node("MatMul", [f"{name}.held", f"{name}.dequantized"], [f"{name}.sums"], name),
        helper.make_node(
            "Mul", [f"{name}.sums", f"{name}.token_scale"], [linear.product], f"{name}.rescaled"
        ),
    ]
    return [*nodes, *linear.biased(linear.product)], arrays


@register_nodes(CMSIS_INT8, lambda found: found["DynamicQuantizeLinear"])
def _cmsis_int8(linear: GraphLinear) -> Parts:
    """The standard operators that an importer for microcontrollers reads."""
    name = linear.name
    q, scale = channel_int8(linear.weight, CMSIS_INT8)
    read = [f"{name}.xq", f"{name}.x_scale", f"{name}.x_zero"]
    held, weight = f"{name}.held", f"{name}.dequantized"
    nodes = [
        helper.make_node("DynamicQuantizeLinear", [linear.x], read, read[0]),
        helper.make_node("DequantizeLinear", read, [held], held),
        helper.make_node(
            "DequantizeLinear", [f"{name}.q", f"{name}.scale"], [weight], weight, axis=1
        ),
        helper.make_node("MatMul", [held, weight], [linear.product], name),
    ]
    arrays = {f"{name}.q": _bytes(q), f"{name}.scale": scale.numpy()}
    return [*nodes, *linear.biased(linear.product)], arrays


def quantized_nodes(linear: GraphLinear, scheme: Scheme) -> Parts:
    """The nodes that compute a linear layer under a quantized scheme, and their initializers.

    The integers of the weights are the ones that the simulated arithmetic uses.
    """
    return NODES[scheme.runtime, scheme.name].make(linear)


def count_quantized(model: onnx.ModelProto, runtime: str = "onnxruntime") -> dict[str, int]:
    """How many linears a graph really holds in each quantized scheme of a runtime.

    Raises:
        NotFoundError: if there is no such runtime.
    """
    found = Counter(map(_operator_kind, model.graph.node))
    quantized = [s.name for s in schemes_of(runtime) if not s.is_native]
    counts = {name: NODES[runtime, name].count(found) for name in quantized}
    return {name: n for name, n in counts.items() if n}


def _operator_kind(node: onnx.NodeProto) -> str:
    """What a node is counted as: its type, or `TO_FP8`."""
    to_fp8 = node.op_type == "Cast" and any(
        a.name == "to" and a.i == onnx.TensorProto.FLOAT8E4M3FN for a in node.attribute
    )
    return TO_FP8 if to_fp8 else node.op_type
