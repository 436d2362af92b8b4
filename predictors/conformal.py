"""A one-sided upper bound of stated coverage from errors on measurements kept out of a fit.

Split conformal prediction with normalised scores (Papadopoulos et al. 2008; Lei et al. 2018):
the score of a measurement is the log-ratio of measured to predicted, divided by the scale that
errors have around such a prediction. The bound holds as often as stated for measurements
exchangeable with the calibration ones, whatever the predictor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MIN_SCALE = 1e-3


def conformal_quantile(
    scores: Array, coverage: float, drift: Sequence[float] | Array = ()
) -> float:
    """The score that a further one stays under with probability of at least `coverage`.

    Args:
        scores: of measurements that are exchangeable with the further one.
        coverage: wanted.
        drift: values, equally likely, of what is added to the further one, independently. They are
            no measurements: what few scores cannot promise is made up for as if there were none.

    Raises:
        ValueError: if there are too few scores to promise that coverage.

    >>> conformal_quantile(np.arange(1.0, 20.0), 0.9)
    18.0
    >>> conformal_quantile(np.arange(1.0, 20.0), 0.9, [2.0])
    20.0
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    if rank > len(scores):
        needed = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise ValueError(f"coverage {coverage:g} needs at least {needed} held-out measurements")
    promised = np.sort(scores)[rank - 1]
    if not len(drift):
        return float(promised)
    moved = np.add.outer(scores, np.asarray(drift))
    seen, seen_moved = (np.quantile(values, coverage, method="hazen") for values in (scores, moved))
    return float(seen_moved + (promised - seen))


class UpperBound:
    """Upper bound of a positive quantity as a ratio to its prediction.

    Args:
        coverage: share of measurements that the bound is to hold for.
        bins: groups of equal size, by predicted value, in which the scale of errors is taken.

    Attributes:
        positions_: logs of predicted values, ascending, shape (bins,).
        scales_: median absolute log error around each position, shape (bins,).
        quantile_: conformal quantile of the normalised scores.
    """

    def __init__(self, coverage: float = 0.9, bins: int = 8) -> None:
        self.coverage = coverage
        self.bins = bins

    def fit(self, predicted: Array, measured: Array) -> UpperBound:
        """Calibrate on predictions of measurements that their model has not seen.

        Every second measurement sets the scale, the others the quantile, as the guarantee needs.

        Raises:
            ValueError: if there are too few measurements.
        """
        order = np.argsort(predicted, kind="stable")
        log_predicted = np.log(predicted[order])
        errors = np.log(measured[order]) - log_predicted
        groups = np.array_split(np.arange(0, len(order), 2), self.bins)
        groups = [group for group in groups if len(group)]
        positions = np.array([np.median(log_predicted[g]) for g in groups])
        # equal positions (a constant prediction) would make the interpolation ambiguous
        _, first = np.unique(positions, return_index=True)
        scales = np.array([np.median(np.abs(errors[g])) for g in groups])
        # rounded here, so that a bound read back from a profile is the very same
        self.positions_ = np.round(positions[first], 5)
        self.scales_ = np.round(np.maximum(scales[first], MIN_SCALE), 6)
        scores = errors[1::2] / self._scale(log_predicted[1::2])
        self.quantile_ = conformal_quantile(scores, self.coverage)
        return self

    def ratio(self, predicted: Array) -> Array:
        """Upper bound over prediction, at least 1, shape (n,)."""
        log_ratio = self.quantile_ * self._scale(np.log(predicted))
        return np.asarray(np.exp(np.maximum(log_ratio, 0.0)))

    def wider(self, power: float) -> UpperBound:
        """The bound whose ratios are this one's to a power."""
        bound = UpperBound(self.coverage, self.bins)
        bound.positions_, bound.scales_ = self.positions_, self.scales_
        bound.quantile_ = power * self.quantile_
        return bound

    def nearer(self, share: float, spread: float) -> UpperBound:
        """The bound whose log ratios are a share of this one's and a spread more, at most these."""
        bound = self.wider(1.0)
        if self.quantile_ > 0:
            scales = share * self.scales_ + spread / self.quantile_
            bound.scales_ = np.minimum(scales, self.scales_)
        return bound

    def widened(self, predicted: Array, octaves: Array) -> Array:
        """`ratio` to the power 1 + octaves, shape (n,).

        Args:
            predicted: (n,).
            octaves: how far each lies outside of what was seen, (n,); each widens the bound by its
                own width.
        """
        return np.asarray(np.exp(np.log(self.ratio(predicted)) * (1.0 + octaves)))

    def _scale(self, log_predicted: Array) -> Array:
        return np.asarray(np.interp(log_predicted, self.positions_, self.scales_))

    def to_params(self) -> dict[str, float | list[float]]:
        """Plain numbers, for a profile."""
        return {
            "upper_coverage": self.coverage,
            "upper_positions": self.positions_.tolist(),
            "upper_scales": self.scales_.tolist(),
            "upper_quantile": self.quantile_,
        }

    @classmethod
    def from_params(cls, params: dict[str, float | list[float]]) -> UpperBound:
        """Rebuild what `to_params` gave.

        Raises:
            KeyError, TypeError, ValueError: if the numbers do not fit together.
        """
        positions = np.asarray(params["upper_positions"], np.float64)
        scales = np.asarray(params["upper_scales"], np.float64)
        if positions.ndim != 1 or positions.shape != scales.shape or not len(positions):
            raise ValueError("upper_positions and upper_scales must be lists of one length")
        if np.any(np.diff(positions) < 0) or np.any(scales < 0):
            raise ValueError("upper_positions must ascend, and upper_scales not be negative")
        bound = cls(float(params["upper_coverage"]), len(positions))  # type: ignore[arg-type]
        bound.positions_, bound.scales_ = positions, scales
        bound.quantile_ = float(params["upper_quantile"])  # type: ignore[arg-type]
        return bound
