"""Power of a GPU under one repeated call, from what the call does to it.

A call of known duration keeps multiprocessors busy, multiplies at some share of the tensor peak
and moves bytes at some share of the bandwidth. Power is taken as idle power and a non-negative sum
of the three, cut at the limit where the device throttles. These shares mean the same for any op, so
a fit on matrix products holds for attention. Energy of a call is power times its duration.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls
from scipy.signal import lfilter
from sklearn.base import BaseEstimator, RegressorMixin

from predictors.op_time import Array

TILE = 128  # rows and columns of a product that one multiprocessor works on
SPLIT = 512  # inputs at least, where a product of few tiles splits its sum
QUERY_TILE = 64
# Of a call's duration so many seconds pass before its multiprocessors are at work.
PRODUCT_START_S, ATTENTION_START_S = 2e-6, 5e-6
AT_LIMIT = 0.96  # readings above this share of the limit only say "at least"


def product_load(
    X: Array,
    seconds: Array,
    element_bytes: Array,
    peak: Array,
    bandwidth: float,
    cores: float,
    moved: Array | None = None,
) -> Array:
    """Shares of (multiprocessors busy, tensor peak, bandwidth) of products, (n, 3).

    Args:
        X: shapes (m, k, n), (n, 3).
        element_bytes: of an input and of a weight; outputs have two, (n,).
        peak: FLOPs per second at that precision (2 per MAC), (n,).
        moved: bytes read and written, (n,), where inputs and weights differ in size.
    """
    m, k, n = X.T
    tiles = np.ceil(m / TILE) * np.ceil(n / TILE)
    tiles = tiles * np.clip(np.floor(cores / tiles), 1, np.maximum(1, k / SPLIT))
    if moved is None:
        moved = element_bytes * (m * k + k * n) + 2 * m * n
    return np.column_stack(
        [
            _busy(tiles / cores, seconds, PRODUCT_START_S),
            2 * m * k * n / seconds / peak,
            moved / seconds / bandwidth,
        ]
    )


def attention_load(
    X: Array,
    seconds: Array,
    flops: Array,
    moved: Array,
    peak: float,
    bandwidth: float,
    cores: float,
) -> Array:
    """The same shares of fused attention of shapes (batch, heads, queries, ...), (n, 3).

    Args:
        flops, moved: FLOPs and bytes of each call, (n,).
    """
    tiles = X[:, 0] * X[:, 1] * np.ceil(X[:, 2] / QUERY_TILE)
    return np.column_stack(
        [
            _busy(tiles / cores, seconds, ATTENTION_START_S),
            flops / seconds / peak,
            moved / seconds / bandwidth,
        ]
    )


def _busy(waves: Array, seconds: Array, start_s: float) -> Array:
    return np.minimum(waves, 1) * np.clip(1 - start_s / seconds, 0, 1)


class PowerModel(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Watts from the shares of a device that calls use.

    Args:
        limit_w: power limit; the device slows down rather than draw more.
        persistence: share of a reading that comes from the calls metered before it, for a meter
            whose window is longer than the time given to a call. 0 if rows are no such sweep.
        own: share of a reading that is its call's own beyond that.

    Attributes:
        coef_: watts when idle, and at full use of multiprocessors, tensor peak and bandwidth.

    >>> loads = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0.5, 0], [1, 0, 0.5]])
    >>> watts = np.array([100.0, 200, 400, 300])
    >>> PowerModel(700).fit(loads, watts).coef_.round().tolist()
    [100.0, 100.0, 400.0, 200.0]
    """

    def __init__(self, limit_w: float, persistence: float = 0.0, own: float = 0.1) -> None:
        self.limit_w = limit_w
        self.persistence = persistence
        self.own = own

    def fit(self, X: Array, y: Array) -> PowerModel:
        """Fit shares (n, 3), in the order of metering, to watts (n,) by relative errors."""
        terms = self._seen(np.column_stack([np.ones(len(X)), X]))
        weights, target = 1.0 / y, y.astype(np.float64)
        for _ in range(15):  # towards absolute errors; a throttled reading is but a lower bound
            self.coef_, _ = nnls(terms * weights[:, None], target * weights)
            predicted = terms @ self.coef_
            throttled = (y > AT_LIMIT * self.limit_w) & (predicted > y)
            target = np.where(throttled, predicted, y)
            residual = np.abs(predicted - target) / y
            weights = 1.0 / y / np.sqrt(np.maximum(residual, 0.02))
        return self

    def steady(self, X: Array) -> Array:
        """Watts of a call repeated for long, (n,)."""
        watts = np.column_stack([np.ones(len(X)), X]) @ self.coef_
        return np.asarray(np.minimum(watts, self.limit_w))

    def predict(self, X: Array) -> Array:
        """Watts as a meter reads them in a sweep over the rows, (n,)."""
        return self._seen(self.steady(X))

    def _seen(self, values: Array) -> Array:
        """What the meter's window makes of a sequence, along the first axis."""
        if not self.persistence or len(values) < 2:
            return values
        start = values[:1] * self.persistence  # as if the first call had run for ever
        past, _ = lfilter([1 - self.persistence], [1, -self.persistence], values, 0, zi=start)
        return np.asarray(self.own * values + (1 - self.own) * past)
