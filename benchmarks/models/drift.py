"""Regression on timings that a machine made while its speed drifted.

Rows stand in the order in which they were timed. The log of a time is that of a positive linear
law of its columns, plus a level that is constant over runs of rows, plus noise with outliers. Both
are estimated in turns: the law by robust weighted least squares of what the levels leave, the
levels by optimal partitioning of what the law leaves (Jackson et al. 2005, one least-squares
cost and one penalty a run). Levels belong to the session, not to the network: a prediction is
made at the level where most rows lie closest together.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

Floats = NDArray[np.float64]

RIDGE = 1e-3
TURNS = 8
# Tukey's biweight: full weight at 0, none beyond so many standard deviations.
BIWEIGHT = 4.685
WINDOW = 25
# A prediction is at most so many times outside what was ever timed.
BEYOND = 2.0


class DriftRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Times, linear in their columns, from rows whose machine drifted.

    Args:
        shortest_run: rows that share a level at least.
        penalty: of one more run, in noise variances times the log of the number of rows.
        slow: a run is drifted from this log-ratio to the base level on.

    Attributes:
        coef_: time per unit of each column, (features,); intercept_: time of none.
        levels_: log of each fitted row's level over the base level, (n,).
        drifted_: whether each fitted row lies in a run that is `slow`, (n,) of bool.
        noise_: standard deviation of the log error within runs, by its median.
    """

    def __init__(self, shortest_run: int = 20, penalty: float = 4.0, slow: float = 0.05) -> None:
        self.shortest_run = shortest_run
        self.penalty = penalty
        self.slow = slow

    def fit(self, X: Floats, y: Floats) -> Self:
        """Fit to rows in the order in which they were timed.

        Args:
            X: columns, (n, features).
            y: times, any unit, (n,), all positive.

        Raises:
            ValueError: if a time is not positive.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        y = np.asarray(y, np.float64)
        if not np.all(y > 0):
            raise ValueError("times must be positive")
        columns = np.column_stack([np.ones(len(y)), X])
        self.low_, self.high_ = float(y.min()) / BEYOND, float(y.max()) * BEYOND
        levels, weights = np.zeros(len(y)), np.ones(len(y))
        for turn in range(TURNS):
            coefficients = _relative_least_squares(columns, y * np.exp(-levels), weights)
            errors = np.log(y / self._times(columns, coefficients))
            if turn:  # the first law is too rough to tell runs by
                levels = run_levels(errors, self.shortest_run, self.penalty)
            # a law and levels share one constant: it stays where most rows lie
            levels -= densest(levels)
            left = errors - levels
            left -= np.median(left)
            self.noise_ = _spread(left)
            weights = np.square(np.maximum(0.0, 1 - np.square(left / (BIWEIGHT * self.noise_))))
            weights = np.maximum(weights, 1e-6)
        base = densest(errors)
        self.coef_ = coefficients[1:] * np.exp(base)
        self.intercept_ = float(coefficients[0] * np.exp(base))
        self.levels_ = run_levels(errors - base, self.shortest_run, self.penalty)
        self.drifted_ = self.levels_ > self.slow
        return self

    def predict(self, X: Floats) -> Floats:
        """Times at the base level, (n,), for columns (n, features)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        columns = np.column_stack([np.ones(len(X)), X])
        return self._times(columns, np.concatenate([[self.intercept_], self.coef_]))

    def find_drifted(self, X: Floats, y: Floats) -> NDArray[np.bool_]:
        """Which of other rows, timed in this order, lie in a slow run, (n,).

        Args:
            X: columns, (n, features).
            y: times, (n,), all positive.
        """
        errors = np.log(np.asarray(y, np.float64) / self.predict(X))
        return run_levels(errors, self.shortest_run, self.penalty) > self.slow

    def _times(self, columns: Floats, coefficients: Floats) -> Floats:
        return np.clip(columns @ coefficients, self.low_, self.high_)

    def __sklearn_tags__(self):  # type: ignore[no-untyped-def]
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


def run_levels(errors: Floats, shortest: int = 20, penalty: float = 4.0) -> Floats:
    """The median of the run that each row lies in, (n,), for log errors (n,) in order.

    Runs are the partition with the least sum of squares plus penalty. Outliers are drawn to the
    running median first, so that single rows make no run.

    >>> run_levels(np.repeat([0.0, 0.3, 0.0], 40))[[0, 45, 100]].tolist()
    [0.0, 0.3, 0.0]
    """
    n = len(errors)
    if n < 2 * shortest:
        return np.full(n, float(np.median(errors)))
    middle = median_filter(errors, min(WINDOW, n), mode="nearest")
    noise = _spread(errors - middle)
    values = middle + np.clip(errors - middle, -2 * noise, 2 * noise)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    squares = np.concatenate([[0.0], np.cumsum(values**2)])
    toll = penalty * noise**2 * np.log(n)
    best = np.full(n + 1, np.inf)
    best[0] = -toll
    start = np.zeros(n + 1, np.int64)
    for end in range(shortest, n + 1):
        first = np.arange(end - shortest + 1)
        total = sums[end] - sums[first]
        cost = squares[end] - squares[first] - total**2 / (end - first) + best[first] + toll
        start[end] = int(np.argmin(cost))
        best[end] = cost[start[end]]
    levels = np.empty(n)
    end = n
    while end > 0:
        levels[start[end] : end] = np.median(errors[start[end] : end])
        end = int(start[end])
    return levels


def densest(values: Floats) -> float:
    """The middle of the shortest interval that holds half of the values.

    No constant has a smaller median absolute error.

    >>> densest(np.array([0.0, 0.1, 0.2, 3.0, 9.0]))
    0.1
    """
    ordered = np.sort(values)
    half = len(ordered) // 2 + 1
    widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    first = int(np.argmin(widths))
    return float((ordered[first] + ordered[first + half - 1]) / 2)


def _relative_least_squares(columns: Floats, times: Floats, weights: Floats) -> Floats:
    """Coefficients with the least weighted squares of relative errors, slightly ridged."""
    scaled = columns / times[:, None] * np.sqrt(weights)[:, None]
    size = np.sqrt(np.mean(scaled**2, axis=0))
    size = np.where(size > 0, size, 1.0)
    scaled = scaled / size
    gram = scaled.T @ scaled + RIDGE * np.eye(scaled.shape[1])
    return np.asarray(np.linalg.solve(gram, scaled.T @ np.sqrt(weights)) / size)


def _spread(errors: Floats) -> float:
    """Standard deviation by the median absolute error, never quite 0."""
    return max(1.4826 * float(np.median(np.abs(errors))), 1e-6)
