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


def within(measured: ArrayLike, predicted: ArrayLike, percent: float) -> float:
    """Percent of the predictions whose error is at most `percent`.

    >>> within([1.0, 1.0, 1.0, 1.0], [1.01, 1.04, 1.2, 0.9], 5)
    50.0
    """
    # the slack keeps an error of exactly the limit inside, whatever the last bit says
    return float(100.0 * np.mean(percent_errors(measured, predicted) <= percent * (1 + 1e-9)))


def kendall_tau(measured: ArrayLike, predicted: ArrayLike) -> float:
    """Kendall's tau-b of the two orders; 0 where either side is constant.

    >>> round(kendall_tau([1, 2, 3], [1, 3, 2]), 6)
    0.333333
    """
    return _or_zero(stats.kendalltau(measured, predicted).statistic)


def spearman(measured: ArrayLike, predicted: ArrayLike) -> float:
    """Spearman's rank correlation; 0 where either side is constant.

    >>> spearman([1, 2, 3, 4], [10, 20, 30, 40])
    1.0
    """
    if np.ptp(np.asarray(measured)) == 0 or np.ptp(np.asarray(predicted)) == 0:
        return 0.0
    return float(round(stats.spearmanr(measured, predicted).statistic, 12))


def coverage(measured: ArrayLike, upper: ArrayLike) -> float:
    """Share of the measured values that are at most their upper bound.

    >>> coverage([1.0, 2.0, 3.0, 4.0], [1.0, 2.5, 2.9, 5.0])
    0.75
    """
    return float(np.mean(np.asarray(measured) <= np.asarray(upper)))


def bound_width(predicted: ArrayLike, upper: ArrayLike) -> float:
    """Mean distance of the upper bound above the prediction, percent of the prediction.

    >>> round(bound_width([1.0, 2.0], [1.1, 2.6]), 6)
    20.0
    """
    guess = np.asarray(predicted, np.float64)
    return float(100.0 * np.mean(np.asarray(upper, np.float64) / guess - 1.0))


def _or_zero(value: float) -> float:
    return 0.0 if np.isnan(value) else float(value)
