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
        Precision("fp16", 16, 16),
        Precision("int8", 8, 8),
        Precision("fp8", 8, 8),
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
    in_place: bool = False


def _out(size: int, kernel: int, stride: int, padding: int = 0) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def _pointwise(inputs: int = 1, weights_per_column: int = 0, in_place: bool = True) -> _Kind:
    """An op over (rows, width) that computes each output from few numbers.

    Args:
        in_place: whether no other op needs its input (its first, of two) afterwards.
    """
    return _Kind(
        ("rows", "width"),
        macs=lambda r, w: 0,
        weights=lambda r, w: weights_per_column * w,
        reads=lambda r, w: inputs * r * w,
        writes=lambda r, w: r * w,
        in_place=in_place,
    )


KINDS: dict[str, _Kind] = {
    # y[m, n] = x[m, k] W[k, n]; a bias rides along
    "linear": _Kind(
        ("m", "k", "n"),
        macs=lambda m, k, n: m * k * n,
        weights=lambda m, k, n: k * n,
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
    # a bias rides along, and so does a batch norm, which is folded into the filters
    "conv2d": _Kind(
        (
            "batch",
            "in_channels",
            "height",
            "width",
            "out_channels",
            "kernel",
            "stride",
            "padding",
            "groups",
        ),
        macs=lambda b, i, h, w, o, k, s, p, g: (
            b * _out(h, k, s, p) * _out(w, k, s, p) * o * (i // g) * k * k
        ),
        weights=lambda b, i, h, w, o, k, s, p, g: o * (i // g) * k * k,
        reads=lambda b, i, h, w, o, k, s, p, g: b * i * h * w,
        writes=lambda b, i, h, w, o, k, s, p, g: b * o * _out(h, k, s, p) * _out(w, k, s, p),
    ),
    "conv1d": _Kind(
        ("batch", "in_channels", "length", "out_channels", "kernel", "stride", "padding", "groups"),
        macs=lambda b, i, n, o, k, s, p, g: b * _out(n, k, s, p) * o * (i // g) * k,
        weights=lambda b, i, n, o, k, s, p, g: o * (i // g) * k,
        reads=lambda b, i, n, o, k, s, p, g: b * i * n,
        writes=lambda b, i, n, o, k, s, p, g: b * o * _out(n, k, s, p),
    ),
    # means over windows; over the whole image where the kernel is its size
    "pool": _Kind(
        ("batch", "channels", "height", "width", "kernel", "stride"),
        macs=lambda *_: 0,
        weights=lambda *_: 0,
        reads=lambda b, c, h, w, k, s: b * c * h * w,
        writes=lambda b, c, h, w, k, s: b * c * _out(h, k, s) * _out(w, k, s),
    ),
    # rows of a table by index
    "embedding": _Kind(
        ("rows", "entries", "width"),
        macs=lambda *_: 0,
        weights=lambda r, e, w: e * w,
        reads=lambda r, e, w: r * w,
        writes=lambda r, e, w: r * w,
    ),
    # before a block, whose input the residual sum needs again
    "layer_norm": _pointwise(weights_per_column=2, in_place=False),
    "rms_norm": _pointwise(weights_per_column=1, in_place=False),
    "relu": _pointwise(),  # relu6 too
    "gelu": _pointwise(),
    "silu": _pointwise(),
    "hardswish": _pointwise(),
    "hardsigmoid": _pointwise(),
    "add": _pointwise(inputs=2),  # y = a + b, the residual sum
    "mul": _pointwise(inputs=2),  # y = a * b, a gate
    "rotary": _pointwise(),  # rotary position embedding
    # a plain copy: concatenation, transposition, adding a table
    "copy": _pointwise(in_place=False),
}


@dataclass(frozen=True, slots=True)
class Op:
    """One operator call.

    Args:
        kind: a key of `KINDS`.
        shape: one positive integer for each of the kind's fields, in their order; a padding may
            be 0.
        precision: a key of `PRECISIONS`; only `linear` ops are ever quantized, all others run in
            the runtime's native float.

    Raises:
        ValueError: if kind, shape or precision is not of that form.

    >>> op = Op("linear", (17, 64, 256), "int8")
    >>> op.macs, op.weights, op.weight_bytes
    (278528, 16384, 17408)
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
        if len(self.shape) != len(fields) or any(
            size < (0 if field == "padding" else 1)
            for field, size in zip(fields, self.shape, strict=True)
        ):
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
        """Parameters, biases not included."""
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
    def in_place(self) -> bool:
        """Whether its output may take the place of an input."""
        return KINDS[self.kind].in_place

    @property
    def weight_bytes(self) -> int:
        """Bytes of the stored weights, scales of quantized ones included, biases not."""
        held = PRECISIONS[self.precision]
        if self.kind != "linear" or held.is_float:
            return self.weights * (held.weight_bits if held.is_float else 32) // 8
        _, k, n = self.shape
        groups = math.ceil(k / held.weight_group) if held.weight_group else 1
        # Runtimes fill the last group up: a row takes whole groups, whatever its length.
        stored = groups * held.weight_group or k
        return math.ceil(stored * n * held.weight_bits / 8) + 4 * n * groups
