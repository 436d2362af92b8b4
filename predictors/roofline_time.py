"""Op times from a device's sheet: a floor for every kernel, then bytes and FLOPs at stated rates.

The roofline is that of Williams, Waterman and Patterson (2009); the floor is what the smallest
kernel takes, which is most of the time of a small network.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar, Self

import numpy as np

from predictors.op_time import Array, OpForm, Params, number, register_form


class _DerivedForm(OpForm):
    """A form given by a few numbers, with one stated upper ratio instead of a calibrated one.

    Each is a dataclass of its numbers, under whose names a profile carries them.
    """

    upper: float
    may_be_zero: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the numbers, in their order."""
        return tuple(f.name for f in fields(cls))  # type: ignore[arg-type]

    def upper_ratio(self, X: Array) -> Array:
        return np.full(len(X), max(self.upper, 1.0))

    def to_params(self) -> Params:
        return {name: float(getattr(self, name)) for name in self.names()}

    @classmethod
    def from_params(cls, params: Params) -> Self:
        values = {name: number(params, name) for name in cls.names()}
        for name, value in values.items():
            if not (value > 0 or (value == 0 and name in cls.may_be_zero)):
                raise ValueError(f"{name} must be positive")
        return cls(**values)


@register_form("stream")
@dataclass(eq=False)
class StreamTime(_DerivedForm):
    """An element-wise or row-wise kernel over (rows, width): floor + bytes / bandwidth.

    Args:
        floor_ms: time of the smallest kernel.
        bandwidth_bytes_per_s: memory rate that such a kernel reaches.
        bytes_per_element: bytes moved for each element of the (rows, width) array.
        upper: stated upper bound over prediction.

    >>> gelu = StreamTime(0.002, 1e12, 4.0, 1.5)
    >>> gelu.predict(np.array([[1.0, 1.0], [1e6, 1e3]])).round(3).tolist()
    [0.002, 4.002]
    """

    floor_ms: float
    bandwidth_bytes_per_s: float
    bytes_per_element: float
    upper: float

    def predict(self, X: Array) -> Array:
        moved = self._elements(X) * self.bytes_per_element
        return np.asarray(self.floor_ms + 1e3 * moved / self.bandwidth_bytes_per_s)

    def _elements(self, X: Array) -> Array:
        return np.asarray(X[:, 0] * X[:, 1])


@register_form("gather_stream")
class GatherTime(StreamTime):
    """Rows of a table by index, (rows, entries, width): a stream over what is gathered."""

    def _elements(self, X: Array) -> Array:
        return np.asarray(X[:, 0] * X[:, 2])


@register_form("pool_stream")
class PoolTime(StreamTime):
    """Means over windows of (batch, channels, height, width): a stream over input and output."""

    def _elements(self, X: Array) -> Array:
        batch, channels, height, width, kernel, stride = X.T
        outputs = ((height - kernel) // stride + 1) * ((width - kernel) // stride + 1)
        return np.asarray(batch * channels * (height * width + outputs))


@register_form("gemm_roofline")
@dataclass(eq=False)
class GemmRoofline(_DerivedForm):
    """y[m, n] = x[m, k] W[k, n]: floor + the larger of arithmetic and memory time.

    Args:
        floor_ms: time of the smallest product.
        flops_per_s: rate of arithmetic reached (2 FLOPs per MAC).
        bandwidth_bytes_per_s: memory rate reached.
        weight_bytes, element_bytes: bytes of a weight, and of an input or output.
        upper: stated upper bound over prediction.

    >>> product = GemmRoofline(0.01, 1e9, 1e9, 4.0, 4.0, 2.0)
    >>> product.predict(np.array([[1000.0, 100.0, 10.0]])).round(3).tolist()
    [2.01]
    """

    floor_ms: float
    flops_per_s: float
    bandwidth_bytes_per_s: float
    weight_bytes: float
    element_bytes: float
    upper: float

    def predict(self, X: Array) -> Array:
        m, k, n = X.T
        moved = self.weight_bytes * k * n + self.element_bytes * m * (k + n)
        seconds = np.maximum(2 * m * k * n / self.flops_per_s, moved / self.bandwidth_bytes_per_s)
        return np.asarray(self.floor_ms + 1e3 * seconds)


@register_form("attention_roofline")
@dataclass(eq=False)
class AttentionRoofline(_DerivedForm):
    """softmax(Q K^T) V: floor + the larger of arithmetic and memory time.

    Args:
        floor_ms: time of the smallest call.
        flops_per_s: rate of arithmetic reached (2 FLOPs per MAC).
        bandwidth_bytes_per_s: memory rate reached.
        element_bytes: bytes of one number.
        score_passes: times that the scores go to memory or back; 0 where the op is fused.
        upper: stated upper bound over prediction.
    """

    floor_ms: float
    flops_per_s: float
    bandwidth_bytes_per_s: float
    element_bytes: float
    upper: float
    score_passes: float = 0.0
    may_be_zero: ClassVar[tuple[str, ...]] = ("score_passes",)

    def predict(self, X: Array) -> Array:
        batch, heads, queries, keys, head_dim = X.T
        scores = batch * heads * queries * keys
        elements = 2 * batch * heads * (queries + keys) * head_dim + self.score_passes * scores
        seconds = np.maximum(
            4 * scores * head_dim / self.flops_per_s,
            elements * self.element_bytes / self.bandwidth_bytes_per_s,
        )
        return np.asarray(self.floor_ms + 1e3 * seconds)


#: Channels of a group under which a grouped convolution cannot feed matrix units.
MATRIX_CHANNELS = 8


@register_form("conv_roofline")
@dataclass(eq=False)
class ConvRoofline(_DerivedForm):
    """A convolution in one or two dimensions: floor + the larger of arithmetic and memory time.

    Shapes are those of `conv1d`, 8 fields, or of `conv2d`, 9. Groups of few channels, depthwise
    above all, do without the matrix units; libraries differ more there, and so does the bound.

    Args:
        floor_ms: time of the smallest convolution.
        flops_per_s: rate of arithmetic reached (2 FLOPs per MAC).
        narrow_flops_per_s: that of groups under 8 channels, in or out.
        bandwidth_bytes_per_s: memory rate reached.
        element_bytes: bytes of one number.
        upper, narrow_upper: stated upper bounds over prediction.
    """

    floor_ms: float
    flops_per_s: float
    narrow_flops_per_s: float
    bandwidth_bytes_per_s: float
    element_bytes: float
    upper: float
    narrow_upper: float

    def predict(self, X: Array) -> Array:
        outputs, kernel, stride, padding, groups = X[:, -5:].T
        batch, inputs = X[:, :2].T
        sides = X[:, 2:-5]  # (n, 1 or 2)
        moved_by = ((sides.T + 2 * padding - kernel) // stride + 1).prod(axis=0)
        weights = outputs * inputs / groups * kernel ** sides.shape[1]
        flops = 2 * batch * moved_by * weights
        elements = batch * (inputs * sides.prod(axis=1) + outputs * moved_by) + weights
        rate = np.where(self._narrow(X), self.narrow_flops_per_s, self.flops_per_s)
        moving = elements * self.element_bytes / self.bandwidth_bytes_per_s
        return np.asarray(self.floor_ms + 1e3 * np.maximum(flops / rate, moving))

    def upper_ratio(self, X: Array) -> Array:
        return np.maximum(np.where(self._narrow(X), self.narrow_upper, self.upper), 1.0)

    @staticmethod
    def _narrow(X: Array) -> Array:
        few = np.minimum(X[:, 1], X[:, -5]) / X[:, -1] < MATRIX_CHANNELS
        return np.asarray(few & (X[:, -1] > 1))  # an image's few channels are filled up instead
