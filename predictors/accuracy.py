"""Accuracy of a candidate from the few that were really evaluated, with its uncertainty.

Gaussian processes over the active genes of the joint genome and a few numeric features: one with
a length scale a gene, one with a single length scale, and a linear one (ridge regression with its
posterior). Each is judged by the rank error of its own leave-one-out predictions, which a Gaussian
process has in closed form (Rasmussen and Williams 2006, eq. 5.12), and weighted by it.
"""

from __future__ import annotations

from typing import Literal, Self, overload

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from hw_profiles.errors import UsageError
from predictors.gaussian_process import Encoder, Floats, GaussianProcess, Kind
from search_spaces.choices import ChoiceSet

KINDS: tuple[Kind, ...] = ("ard", "isotropic", "linear")

# How fast a model's share falls with its rank error: 0.02 worse than the best is e times less.
SHARE_SCALE = 0.02
# The ceiling lies this share of (best - median) above the best; no response counts as nearer.
CEILING_MARGIN = 0.25
MIN_GAP = 0.05
# Hyper-parameters are learnt from so many rows at most, spread evenly; all rows are conditioned on.
MAX_LEARNT = 256


class AccuracyPredictor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Accuracy (or any costly figure of merit) of genomes, with a standard deviation.

    The response is modelled as -log(ceiling - accuracy), with a ceiling a little above the best
    seen: gains near the top count for more than the same gain far below, which makes the effects
    of genes nearly additive. A loss is modelled with its sign turned.

    Args:
        choices: of the joint genome.
        maximise: whether larger is better.
        kinds: the Gaussian processes to weigh against each other.

    Attributes:
        weights_: share of each kind, (kinds,).
        rank_correlation_: Kendall tau of each kind's leave-one-out predictions, (kinds,).
        noise_std_: noise of an evaluation that the models agree on, in units of the response's
            own spread.

    >>> import numpy as np
    >>> from search_spaces.choices import Choice, ChoiceSet
    >>> choices = ChoiceSet(tuple(Choice(f"layer{i}", (1, 2, 4)) for i in range(4)))
    >>> genomes = choices.sample(40, np.random.default_rng(0))
    >>> accuracy = 0.9 - 0.4 * np.exp(-genomes.sum(axis=1) / 4)
    >>> model = AccuracyPredictor(choices).fit(genomes, accuracy)
    >>> bool(np.abs(model.predict(choices.extreme(largest=True)) - 0.846) < 0.01)
    True
    """

    def __init__(
        self, choices: ChoiceSet, maximise: bool = True, kinds: tuple[Kind, ...] = KINDS
    ) -> None:
        self.choices = choices
        self.maximise = maximise
        self.kinds = kinds

    def fit(self, X: NDArray[np.generic], y: NDArray[np.floating]) -> Self:
        """Learn from rows (n, genes + features) and responses (n,), in float64.

        Raises:
            UsageError: if rows and responses do not match, there are fewer than 2, or a number
                is not finite.
        """
        rows, y = self._rows(X), np.asarray(y, dtype=np.float64)
        if y.shape != (len(rows),) or len(rows) < 2 or not np.isfinite(y).all():
            raise UsageError(
                "an accuracy predictor needs two or more rows, each with one finite response.",
                "Leave failed evaluations out of its data.",
            )
        self._encoder = Encoder.of(self.choices, rows)
        sign = 1.0 if self.maximise else -1.0
        best, middle = (sign * y).max(), np.median(sign * y)
        self._unit = float(best - middle)
        self._ceiling = float(best + CEILING_MARGIN * self._unit)
        response = self._warp(y)
        self._mean, self._std = response.mean(), max(response.std(), 1e-12)
        columns, standard = self._encoder(rows), (response - self._mean) / self._std
        self.n_features_in_ = rows.shape[1]
        some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MAX_LEARNT)).astype(np.int64))
        self.models_ = [
            GaussianProcess(kind, self._encoder.groups())
            .fit(columns[some], standard[some])
            .condition(columns, standard)
            for kind in self.kinds
        ]
        self.rank_correlation_ = np.array(
            [_rank_correlation(model.left_out_, standard) for model in self.models_]
        )
        share = np.exp((self.rank_correlation_ - self.rank_correlation_.max()) / SHARE_SCALE)
        self.weights_ = share / share.sum()
        self.noise_std_ = float(self.weights_ @ [model.noise_std_ for model in self.models_])
        return self

    def condition(self, X: NDArray[np.generic], y: NDArray[np.floating]) -> Self:
        """Take other observations in place of those fitted, with everything learnt kept.

        Raises:
            UsageError: if the rows are not the shape of those fitted.
        """
        columns = self._columns(X)
        standard = (self._warp(np.asarray(y, dtype=np.float64)) - self._mean) / self._std
        for model in self.models_:
            model.condition(columns, standard)
        return self

    @overload
    def predict(self, X: NDArray[np.generic], return_std: Literal[False] = False) -> Floats: ...
    @overload
    def predict(
        self, X: NDArray[np.generic], return_std: Literal[True]
    ) -> tuple[Floats, Floats]: ...
    def predict(
        self, X: NDArray[np.generic], return_std: bool = False
    ) -> Floats | tuple[Floats, Floats]:
        """Median of the response at rows (n, genes + features), (n,), and half the width of its
        central 68 % on request, in the response's own units and without evaluation noise."""
        low, median, high = self.quantiles(X, np.array([-1.0, 0.0, 1.0]))
        return (median, np.abs(high - low) / 2) if return_std else median

    def quantiles(self, X: NDArray[np.generic], z: Floats) -> Floats:
        """The response `z` (k,) standard deviations towards better, (k, n)."""
        columns = self._columns(X)
        each = [model.predict(columns) for model in self.models_]
        mean = sum(w * m for w, (m, _) in zip(self.weights_, each, strict=True))
        variance = sum(
            w * (s**2 + (m - mean) ** 2) for w, (m, s) in zip(self.weights_, each, strict=True)
        )
        standard = mean[None, :] + z[:, None] * np.sqrt(variance)[None, :]
        return self._unwarp(standard * self._std + self._mean)

    def _rows(self, X: NDArray[np.generic]) -> Floats:
        rows = np.asarray(X, dtype=np.float64)
        n_genes = len(self.choices)
        if rows.ndim != 2 or rows.shape[1] < n_genes or not np.isfinite(rows).all():
            raise UsageError(
                f"rows need {n_genes} genes first, then any features, all finite.",
                "Give one row a candidate.",
            )
        self.choices.validate(rows[:, :n_genes].astype(np.int64))
        return rows

    def _columns(self, X: NDArray[np.generic]) -> Floats:
        check_is_fitted(self, "models_")
        rows = self._rows(X)
        if rows.shape[1] != self.n_features_in_:
            raise UsageError(
                f"the predictor was fitted on {self.n_features_in_} columns, not {rows.shape[1]}.",
                "Give the same features as in the fit.",
            )
        return self._encoder(rows)

    def _warp(self, y: NDArray[np.floating]) -> Floats:
        better: Floats = np.asarray(y if self.maximise else -y, dtype=np.float64)
        if self._unit <= 0:
            return better
        # An observation above the ceiling, seen after the fit, counts as one just below it.
        gap = (self._ceiling - better) / self._unit
        return -np.log(np.maximum(gap, MIN_GAP))

    def _unwarp(self, response: Floats) -> Floats:
        better = response
        if self._unit > 0:
            better = self._ceiling - np.exp(-response) * self._unit
        return better if self.maximise else -better


def _rank_correlation(predicted: Floats, truth: Floats) -> float:
    """Kendall's tau-b; 0 where either side is constant."""
    tau = float(kendalltau(predicted, truth).statistic)
    return tau if np.isfinite(tau) else 0.0
