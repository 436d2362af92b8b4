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


def _gelu(rows: int, width: int) -> Call:
    x = torch.randn(1, rows, width)
    return lambda: F.gelu(x)


def _add(rows: int, width: int) -> Call:
    x, y = torch.randn(1, rows, width), torch.randn(1, rows, width)
    return lambda: x + y


def _copy(rows: int, width: int) -> Call:
    x = torch.randn(rows, width)
    return lambda: x.t().contiguous()


def _conv2d(b: int, i: int, h: int, w: int, o: int, kernel: int, stride: int) -> Call:
    x, weight, bias = torch.randn(b, i, h, w), torch.randn(o, i, kernel, kernel), torch.randn(o)
    return lambda: F.conv2d(x, weight, bias, stride)


_CALLS: dict[str, Callable[..., Call]] = {
    "linear": _linear,
    "attention": _attention,
    "layer_norm": _layer_norm,
    "gelu": _gelu,
    "add": _add,
    "copy": _copy,
    "conv2d": _conv2d,
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
        _gelu(17, 192),
        _linear(17, 192, 48),
        _add(17, 48),
    ]
    return without_gradients(lambda: [call() for call in calls], threads)


def idle_call(threads: int = 1) -> Call:
    """A call that computes nothing."""
    return without_gradients(lambda: None, threads)
