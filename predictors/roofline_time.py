"""Op times from a device's sheet: a floor for every kernel, then bytes and FLOPs at stated rates.

The roofline is that of Williams, Waterman and Patterson (2009); the floor is what the smallest
kernel takes, which is most of the time of a small network.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin

from predictors.op_time import Array, OpForm, Params, number, register_form


class _DerivedForm(OpForm):
    """A form given by a few numbers, with one stated upper ratio instead of a calibrated one."""

    upper: float
    names: tuple[str, ...]

    def upper_ratio(self, X: Array) -> Array:
        return np.full(len(X), max(self.upper, 1.0))

    def to_params(self) -> Params:
        return {name: float(getattr(self, name)) for name in self.names}

    @classmethod
    def from_params(cls, params: Params) -> Self:
        form = cls(**{name: number(params, name) for name in cls.names})
        if any(not getattr(form, name) > 0 for name in cls.names):
            raise ValueError("all numbers must be positive")
        return form


@register_form("stream")
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

    names = ("floor_ms", "bandwidth_bytes_per_s", "bytes_per_element", "upper")

    def __init__(
        self, floor_ms: float, bandwidth_bytes_per_s: float, bytes_per_element: float, upper: float
    ) -> None:
        self.floor_ms = floor_ms
        self.bandwidth_bytes_per_s = bandwidth_bytes_per_s
        self.bytes_per_element = bytes_per_element
        self.upper = upper

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


#: Channels of a group under which a grouped convolution cannot feed matrix units.
MATRIX_CHANNELS = 8


@register_form("conv_roofline")
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

    names = (
        "floor_ms",
        "flops_per_s",
        "narrow_flops_per_s",
        "bandwidth_bytes_per_s",
        "element_bytes",
        "upper",
        "narrow_upper",
    )

    def __init__(
        self,
        floor_ms: float,
        flops_per_s: float,
        narrow_flops_per_s: float,
        bandwidth_bytes_per_s: float,
        element_bytes: float,
        upper: float,
        narrow_upper: float,
    ) -> None:
        self.floor_ms = floor_ms
        self.flops_per_s = flops_per_s
        self.narrow_flops_per_s = narrow_flops_per_s
        self.bandwidth_bytes_per_s = bandwidth_bytes_per_s
        self.element_bytes = element_bytes
        self.upper = upper
        self.narrow_upper = narrow_upper

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


QUERY_TILE, KEY_TILE, HEAD_TILE = 128, 64, 32


@register_form("attention_waves")
class AttentionWaves(BaseEstimator, RegressorMixin, _DerivedForm):  # type: ignore[misc]
    """Fused attention: a floor, then waves of query tiles over the multiprocessors, then bytes.

    A tile is 128 queries of one head, as in FlashAttention-2 (Dao 2023): 17 queries take the time
    of 128. Every wave costs something of its own, and its arithmetic over the keys.

    Args:
        cores: streaming multiprocessors.
        flops_per_s: peak arithmetic (2 FLOPs per MAC).
        bandwidth_bytes_per_s: peak memory rate.
        element_bytes: bytes of one number.
        floor_ms, wave_ms: time of the smallest call; of one wave beside its arithmetic.
        flop_factor, byte_factor: times over what the peaks would take. `fit` sets these four.
        upper: stated upper bound over prediction.
    """

    names = (
        "cores",
        "flops_per_s",
        "bandwidth_bytes_per_s",
        "element_bytes",
        "floor_ms",
        "wave_ms",
        "flop_factor",
        "byte_factor",
        "upper",
    )

    def __init__(
        self,
        cores: float,
        flops_per_s: float,
        bandwidth_bytes_per_s: float,
        element_bytes: float = 2.0,
        floor_ms: float = 0.005,
        wave_ms: float = 0.001,
        flop_factor: float = 1.5,
        byte_factor: float = 1.0,
        upper: float = 2.0,
    ) -> None:
        self.cores = cores
        self.flops_per_s = flops_per_s
        self.bandwidth_bytes_per_s = bandwidth_bytes_per_s
        self.element_bytes = element_bytes
        self.floor_ms = floor_ms
        self.wave_ms = wave_ms
        self.flop_factor = flop_factor
        self.byte_factor = byte_factor
        self.upper = upper

    def fit(
        self, X: Array, y: Array, kv_heads: Array | None = None, causal: bool = False
    ) -> AttentionWaves:
        """Non-negative robust least squares on relative errors.

        Args:
            X: shapes (batch, heads, queries, keys, head_dim), (n, 5).
            y: milliseconds, (n,).
            kv_heads: key and value heads where queries share them, (n,).
            causal: whether these calls skipped what lies ahead of a query.

        Attributes:
            coef_: floor_ms, wave_ms, flop_factor, byte_factor as fitted (any may be 0).
        """
        terms = self._terms(X, kv_heads, causal)
        weights = 1.0 / y
        for _ in range(8):  # reweighting towards absolute errors: one slow kernel is no rule
            self.coef_, _ = nnls(terms * weights[:, None], y * weights)
            residual = np.abs(terms @ self.coef_ / y - 1.0)
            weights = 1.0 / y / np.sqrt(np.maximum(residual, 0.05))
        return self

    def predict(self, X: Array, kv_heads: Array | None = None, causal: bool = False) -> Array:
        factors: Any = getattr(self, "coef_", None)
        if factors is None:
            factors = [self.floor_ms, self.wave_ms, self.flop_factor, self.byte_factor]
        return np.asarray(self._terms(X, kv_heads, causal) @ np.asarray(factors))

    def _terms(self, X: Array, kv_heads: Array | None, causal: bool) -> Array:
        batch, heads, queries, keys, head_dim = X.T
        shared = heads if kv_heads is None else kv_heads
        waves = np.ceil(batch * heads * np.ceil(queries / QUERY_TILE) / self.cores)
        seen = np.ceil(keys / KEY_TILE) * KEY_TILE
        if causal:
            seen = np.minimum(seen, (seen + QUERY_TILE) / 2)
        width = np.ceil(head_dim / HEAD_TILE) * HEAD_TILE
        flops = waves * self.cores * QUERY_TILE * seen * width * 4
        elements = 2 * batch * head_dim * (heads * queries + shared * keys)
        return np.column_stack(
            [
                np.ones(len(X)),
                waves,
                1e3 * flops / self.flops_per_s,
                1e3 * elements * self.element_bytes / self.bandwidth_bytes_per_s,
            ]
        )
