"""PyTorch eager on this CPU: ops in float32 as calls that can be timed."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from hw_profiles.errors import MeasureError
from hw_profiles.op import Op

Call = Callable[[], object]


def _attention(b: int, heads: int, queries: int, keys: int, width: int) -> Call:
    q, k, v = (torch.randn(b, heads, n, width) for n in (queries, keys, keys))
    return lambda: F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _linear(m: int, k: int, n: int) -> Call:
    x, weight, bias = torch.randn(1, m, k), torch.randn(n, k), torch.randn(n)
    return lambda: F.linear(x, weight, bias)


def _layer_norm(rows: int, width: int) -> Call:
    x, weight, bias = torch.randn(1, rows, width), torch.randn(width), torch.randn(width)
    return lambda: F.layer_norm(x, (width,), weight, bias)


def _rms_norm(rows: int, width: int) -> Call:
    x, weight = torch.randn(1, rows, width), torch.randn(width)
    return lambda: F.rms_norm(x, (width,), weight)


def _unary(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[int, int], Call]:
    def call(rows: int, width: int) -> Call:
        x = torch.randn(1, rows, width)
        return lambda: function(x)

    return call


def _binary(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[int, int], Call]:
    def call(rows: int, width: int) -> Call:
        x, y = torch.randn(1, rows, width), torch.randn(1, rows, width)
        return lambda: function(x, y)

    return call


def _rotary(rows: int, width: int) -> Call:
    x, cosine, sine = (torch.randn(1, rows, width) for _ in range(3))

    def call() -> torch.Tensor:
        first, second = x.tensor_split(2, dim=-1)
        return x * cosine + torch.cat([-second, first], dim=-1) * sine

    return call


def _copy(rows: int, width: int) -> Call:
    x = torch.randn(rows, width)
    return lambda: x.t().contiguous()


def _embedding(rows: int, entries: int, width: int) -> Call:
    table, tokens = torch.randn(entries, width), torch.randint(entries, (1, rows))
    return lambda: F.embedding(tokens, table)


def _pool(b: int, channels: int, h: int, w: int, kernel: int, stride: int) -> Call:
    x = torch.randn(b, channels, h, w)
    if kernel == h == w:
        return lambda: x.mean((2, 3), keepdim=True)
    return lambda: F.avg_pool2d(x, kernel, stride)


def _conv2d(b: int, i: int, h: int, w: int, o: int, k: int, s: int, p: int, groups: int) -> Call:
    x, weight, bias = torch.randn(b, i, h, w), torch.randn(o, i // groups, k, k), torch.randn(o)
    return lambda: F.conv2d(x, weight, bias, s, p, groups=groups)


def _conv1d(b: int, i: int, length: int, o: int, k: int, s: int, p: int, groups: int) -> Call:
    x, weight, bias = torch.randn(b, i, length), torch.randn(o, i // groups, k), torch.randn(o)
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


def without_gradients(call: Call, threads: int) -> Call:
    """The call as inference runs it."""
    torch.set_num_threads(threads)

    def run() -> object:
        with torch.inference_mode():
            return call()

    return run


def op_call(kind: str, shape: list[int], precision: str, copies: int = 1, threads: int = 1) -> Call:
    """So many calls of an op, one after another.

    Raises:
        MeasureError: if the precision is not fp32, the only one that is run eagerly.
    """
    op = Op(kind, tuple(shape), precision)
    if op.precision != "fp32":
        raise MeasureError(f"eager PyTorch runs no {precision} here.", "It offers fp32.")
    calls = [_CALLS[op.kind](*op.shape) for _ in range(copies)]
    return without_gradients(lambda: [call() for call in calls], threads)


def mix_call(threads: int = 1) -> Call:
    """A fixed mix of small ops, one after another."""
    calls = [
        _linear(17, 48, 144),
        _attention(1, 3, 17, 17, 16),
        _layer_norm(17, 48),
        _CALLS["gelu"](17, 192),
        _linear(17, 192, 48),
        _CALLS["add"](17, 48),
    ]
    return without_gradients(lambda: [call() for call in calls], threads)


def idle_call(threads: int = 1) -> Call:
    """A call that computes nothing."""
    return without_gradients(lambda: None, threads)
