"""How far predictions are from measurements, and how honest their upper bounds are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def percent_errors(measured: ArrayLike, predicted: ArrayLike) -> NDArray[np.float64]:
    """Absolute errors relative to the measured values, in percent.

    Raises:
        ValueError: if the arrays differ in length, are empty, or a measured value is not positive.

    >>> percent_errors([1.0, 2.0], [1.1, 1.0]).round(6).tolist()
    [10.0, 50.0]
    """
    true, guess = np.asarray(measured, np.float64), np.asarray(predicted, np.float64)
    if true.shape != guess.shape or true.size == 0:
        raise ValueError(f"need two equal, non-empty arrays, not {true.shape} and {guess.shape}")
    if not np.all(true > 0):
        raise ValueError("measured values must be positive")
    return 100.0 * np.abs(guess - true) / true


def mape(measured: ArrayLike, predicted: ArrayLike) -> float:
    """Mean absolute percentage error, percent.

    >>> round(mape([1.0, 2.0], [1.1, 1.0]), 6)
    30.0
    """
    return float(percent_errors(measured, predicted).mean())


def median_error(measured: ArrayLike, predicted: ArrayLike) -> float:
    """Median absolute percentage error, percent."""
    return float(np.median(percent_errors(measured, predicted)))


def kendall_tau(measured: ArrayLike, predicted: ArrayLike) -> float:
    """Kendall's tau-b of the two orders; 0 where either side is constant.

    >>> round(kendall_tau([1, 2, 3], [1, 3, 2]), 6)
    0.333333
    """
    return _or_zero(stats.kendalltau(measured, predicted).statistic)


def coverage(measured: ArrayLike, upper: ArrayLike) -> float:
    """Share of the measured values that are at most their upper bound.

    >>> coverage([1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 2.9, 5.0])
    0.75
    """
    return float(np.mean(np.asarray(measured) <= np.asarray(upper)))


def _or_zero(value: float) -> float:
    return 0.0 if np.isnan(value) else float(value)
