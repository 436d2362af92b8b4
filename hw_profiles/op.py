"""An op: one operator call with its shapes and precision, the unit a device is timed on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Precision:
    """How a linear layer's numbers are held.

    Attributes:
        weight_bits: bits of one weight.
        activation_bits: bits of one activation as the matrix unit reads it;
            0 means the runtime's native type (weight-only quantization).
        weight_group: weights that share one scale along the input features; 0 means a whole
            output channel.
    """

    name: str
    weight_bits: int
    activation_bits: int
    weight_group: int = 0

    @property
    def is_float(self) -> bool:
        """Whether the weights are plain floating point, with no scales beside them."""
        return self.weight_bits >= 16


PRECISIONS: dict[str, Precision] = {
    p.name: p
    for p in (
        Precision("fp32", 32, 32),
        Precision("bf16", 16, 16),
        Precision("int8", 8, 8),
        Precision("int8_wo", 8, 0),
        Precision("int4_wo", 4, 0, weight_group=32),
    )
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """Shape fields of an op kind, and its counts as functions of them."""

    fields: tuple[str, ...]
    macs: Callable[..., int]
    weights: Callable[..., int]
    reads: Callable[..., int]
    writes: Callable[..., int]


def _conv_out(size: int, kernel: int, stride: int) -> int:
    return (size - kernel) // stride + 1


KINDS: dict[str, _Kind] = {
    # y[m, n] = x[m, k] W[k, n] + b[n]
    "linear": _Kind(
        ("m", "k", "n"),
        macs=lambda m, k, n: m * k * n,
        weights=lambda m, k, n: (k + 1) * n,
        reads=lambda m, k, n: m * k,
        writes=lambda m, k, n: m * n,
    ),
    # softmax(Q K^T) V for every head, without its projections
    "attention": _Kind(
        ("batch", "heads", "queries", "keys", "head_dim"),
        macs=lambda b, h, q, k, d: 2 * b * h * q * k * d,
        weights=lambda *_: 0,
        reads=lambda b, h, q, k, d: b * h * d * (q + 2 * k),
        writes=lambda b, h, q, k, d: b * h * q * d,
    ),
    "layer_norm": _Kind(
        ("rows", "width"),
        macs=lambda r, w: 0,
        weights=lambda r, w: 2 * w,
        reads=lambda r, w: r * w,
        writes=lambda r, w: r * w,
    ),
    "gelu": _Kind(
        ("rows", "width"),
        macs=lambda r, w: 0,
        weights=lambda *_: 0,
        reads=lambda r, w: r * w,
        writes=lambda r, w: r * w,
    ),
    # y = a + b, the residual sum
    "add": _Kind(
        ("rows", "width"),
        macs=lambda r, w: 0,
        weights=lambda *_: 0,
        reads=lambda r, w: 2 * r * w,
        writes=lambda r, w: r * w,
    ),
    # a plain copy: concatenation, transposition, adding a table
    "copy": _Kind(
        ("rows", "width"),
        macs=lambda r, w: 0,
        weights=lambda *_: 0,
        reads=lambda r, w: r * w,
        writes=lambda r, w: r * w,
    ),
    "conv2d": _Kind(
        ("batch", "in_channels", "height", "width", "out_channels", "kernel", "stride"),
        macs=lambda b, i, h, w, o, k, s: (
            b * _conv_out(h, k, s) * _conv_out(w, k, s) * o * i * k * k
        ),
        weights=lambda b, i, h, w, o, k, s: o * (i * k * k + 1),
        reads=lambda b, i, h, w, o, k, s: b * i * h * w,
        writes=lambda b, i, h, w, o, k, s: b * o * _conv_out(h, k, s) * _conv_out(w, k, s),
    ),
}


@dataclass(frozen=True, slots=True)
class Op:
    """One operator call.

    Args:
        kind: a key of `KINDS`.
        shape: one positive integer for each of the kind's fields, in their order.
        precision: a key of `PRECISIONS`; only `linear` ops are ever quantized, all others run in
            the runtime's native float.

    Raises:
        ValueError: if kind, shape or precision is not of that form.

    >>> op = Op("linear", (17, 64, 256), "int8")
    >>> op.macs, op.weights, op.weight_bytes
    (278528, 16640, 18432)
    """

    kind: str
    shape: tuple[int, ...]
    precision: str = "fp32"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown op kind {self.kind!r}; known: {', '.join(KINDS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"unknown precision {self.precision!r}; known: {', '.join(PRECISIONS)}"
            )
        fields = KINDS[self.kind].fields
        if len(self.shape) != len(fields) or min(self.shape) < 1:
            raise ValueError(f"{self.kind} takes positive {fields}, not {self.shape}")

    def at(self, precision: str) -> Op:
        """The same call in another precision."""
        return replace(self, precision=precision)

    @property
    def macs(self) -> int:
        """Multiply-accumulates (a FLOP count is twice this)."""
        return KINDS[self.kind].macs(*self.shape)

    @property
    def weights(self) -> int:
        """Parameters, biases included."""
        return KINDS[self.kind].weights(*self.shape)

    @property
    def reads(self) -> int:
        """Activation elements read."""
        return KINDS[self.kind].reads(*self.shape)

    @property
    def writes(self) -> int:
        """Activation elements written."""
        return KINDS[self.kind].writes(*self.shape)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the stored weights: scales of quantized ones and float32 biases included."""
        held = PRECISIONS[self.precision]
        if self.kind != "linear" or held.is_float:
            return self.weights * held.weight_bits // 8 if held.is_float else self.weights * 4
        _, k, n = self.shape
        groups = math.ceil(k / held.weight_group) if held.weight_group else 1
        return math.ceil(k * n * held.weight_bits / 8) + 4 * n * groups + 4 * n
