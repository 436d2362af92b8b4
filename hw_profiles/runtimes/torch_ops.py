"""Ops in PyTorch, on any device and in any float type, as calls on random tensors of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hw_profiles.errors import MeasureError
from hw_profiles.op import Op
from hw_profiles.runtimes.stopwatch import Call

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Tensors:
    """Makes the tensors of a call.

    Attributes:
        device: of PyTorch.
        native: float type, a key of `DTYPES`.
    """

    device: str = "cpu"
    native: str = "fp32"

    def __call__(self, *shape: int) -> Tensor:
        """Normal numbers."""
        return torch.randn(*shape, device=self.device, dtype=DTYPES[self.native])

    def tokens(self, entries: int, *shape: int) -> Tensor:
        """Indices into a table of so many entries."""
        return torch.randint(entries, shape, device=self.device)


def _attention(r: Tensors, b: int, heads: int, queries: int, keys: int, width: int) -> Call:
    q, k, v = (r(b, heads, n, width) for n in (queries, keys, keys))
    return lambda: F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _linear(r: Tensors, m: int, k: int, n: int) -> Call:
    x, weight, bias = r(1, m, k), r(n, k), r(n)
    return lambda: F.linear(x, weight, bias)


def _layer_norm(r: Tensors, rows: int, width: int) -> Call:
    x, weight, bias = r(1, rows, width), r(width), r(width)
    return lambda: F.layer_norm(x, (width,), weight, bias)


def _rms_norm(r: Tensors, rows: int, width: int) -> Call:
    x, weight = r(1, rows, width), r(width)
    return lambda: F.rms_norm(x, (width,), weight)


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensors, int, int], Call]:
    def call(r: Tensors, rows: int, width: int) -> Call:
        x = r(1, rows, width)
        return lambda: function(x)

    return call


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensors, int, int], Call]:
    def call(r: Tensors, rows: int, width: int) -> Call:
        x, y = r(1, rows, width), r(1, rows, width)
        return lambda: function(x, y)

    return call


def _rotary(r: Tensors, rows: int, width: int) -> Call:
    x, cosine, sine = (r(1, rows, width) for _ in range(3))

    def call() -> Tensor:
        first, second = x.tensor_split(2, dim=-1)
        return x * cosine + torch.cat([-second, first], dim=-1) * sine

    return call


def _copy(r: Tensors, rows: int, width: int) -> Call:
    x = r(rows, width)
    return lambda: x.t().contiguous()


def _embedding(r: Tensors, rows: int, entries: int, width: int) -> Call:
    table, tokens = r(entries, width), r.tokens(entries, 1, rows)
    return lambda: F.embedding(tokens, table)


def _pool(r: Tensors, b: int, channels: int, h: int, w: int, kernel: int, stride: int) -> Call:
    x = r(b, channels, h, w)
    if kernel == h == w:
        return lambda: x.mean((2, 3), keepdim=True)
    return lambda: F.avg_pool2d(x, kernel, stride)


def _conv2d(r: Tensors, b: int, i: int, h: int, w: int, *rest: int) -> Call:
    o, k, s, p, groups = rest
    x, weight, bias = r(b, i, h, w), r(o, i // groups, k, k), r(o)
    return lambda: F.conv2d(x, weight, bias, s, p, groups=groups)


def _conv1d(r: Tensors, b: int, i: int, length: int, *rest: int) -> Call:
    o, k, s, p, groups = rest
    x, weight, bias = r(b, i, length), r(o, i // groups, k), r(o)
    return lambda: F.conv1d(x, weight, bias, s, p, groups=groups)


_CALLS: dict[str, Callable[..., Call]] = {
    "linear": _linear,
    "attention": _attention,
    "conv2d": _conv2d,
    "conv1d": _conv1d,
    "pool": _pool,
    "embedding": _embedding,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "relu": _unary(F.relu),
    "gelu": _unary(F.gelu),
    "silu": _unary(F.silu),
    "hardswish": _unary(F.hardswish),
    "hardsigmoid": _unary(F.hardsigmoid),
    "add": _binary(torch.add),
    "mul": _binary(torch.mul),
    "rotary": _rotary,
    "copy": _copy,
}


def one_after_another(ops: list[Op], tensors: Tensors) -> Call:
    """A call that runs ops in order, each on tensors of its own.

    Raises:
        MeasureError: if an op is not in the native float type.
    """
    other = [op.precision for op in ops if op.precision != tensors.native]
    if other:
        raise MeasureError(
            f"PyTorch in {tensors.native} runs no {other[0]} here.", f"It offers {tensors.native}."
        )
    calls = [_CALLS[op.kind](tensors, *op.shape) for op in ops]
    return lambda: [call() for call in calls]


def without_gradients(call: Call) -> Call:
    """The call as inference runs it."""

    def run() -> object:
        with torch.inference_mode():
            return call()

    return run
