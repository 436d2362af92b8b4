"""Accuracy of a candidate from the few that were really evaluated, with its uncertainty.

Four models over the active genes of the joint genome, their sums over the layers and a few numeric
features: a Gaussian process with a length scale a gene; one in which the genes of all layers share
theirs and have a slope in common; a linear one (ridge regression with its posterior); and boosted
trees. Each is judged by its own predictions of what was left out (one response at a time, which a
Gaussian process has in closed form: Rasmussen and Williams 2006, eq. 5.10 to 5.12; a fold at a
time for the trees), and weighted by their rank error and by the log density that they give to it:
where a few genes decide most of the ranks, ranks alone cannot tell a model that knows the others'
effects from one that does not.
"""

from __future__ import annotations

from typing import Literal, Self, overload

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from hw_profiles.errors import UsageError
from predictors.boosted_trees import BoostedTrees
from predictors.gaussian_process import Floats, GaussianProcess, Kernel
from predictors.genome_encoder import Encoder
from predictors.metrics import kendall_tau
from search_spaces.choices import ChoiceSet

Kind = Kernel | Literal["boosted"]
KINDS: tuple[Kind, ...] = ("ard", "shared", "linear", "boosted")

# A model's share falls by e for so much more rank error, and for so much less log density of a
# response, times the root of their number. A model with less than the smallest share has none.
RANK_SCALE = 0.02
DENSITY_SCALE = 2.0
SMALLEST_SHARE = 0.01
# The ceiling lies one of these shares of (best - median) above the best; the last is so far off
# that the response is modelled as it is. No response counts as nearer than a fifth of the share.
MARGINS = (0.5, 1.0, 4.0, 100.0)
MIN_SHARE = 0.2
# Hyper-parameters are learnt from so many rows at most, the margin from fewer, spread evenly; all
# rows are conditioned on.
MAX_LEARNT = 256
MAX_MARGIN = 96


class AccuracyPredictor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Accuracy (or any costly figure of merit) of genomes, with a standard deviation.

    The response is modelled as -log(ceiling - accuracy), with a ceiling above the best seen: the
    nearer it is, the more gains near the top count for beside the same gain far below. How near
    is chosen by how well responses left out are predicted; an accuracy that saturates has it near,
    a perplexity that does not, far off. A loss is modelled with its sign turned.

    Args:
        choices: of the joint genome.
        maximise: whether larger is better.
        kinds: the models to weigh against each other.

    Attributes:
        margin_: how far the ceiling is above the best response, in units of (best - median).
        weights_: share of each kind, (kinds,).
        rank_correlation_: Kendall tau of each kind's left-out predictions, (kinds,).
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

    def fit(
        self,
        X: NDArray[np.generic],
        y: NDArray[np.floating],
        noise: NDArray[np.floating] | None = None,
    ) -> Self:
        """Learn from rows (n, genes + features) and responses (n,), in float64.

        Args:
            X: rows.
            y: responses.
            noise: standard error of each response (n,) that is known beforehand, beside the one
                that all have in common, which is learnt; none unless given.

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
        self._best = float((sign * y).max())
        self._unit = float(self._best - np.median(sign * y))
        columns, known = self._encoder(rows), _known_noise(noise, len(y))
        self.n_features_in_ = rows.shape[1]
        few, some = _spread(len(rows), MAX_MARGIN), _spread(len(rows), MAX_LEARNT)
        densities = [self._density(m, columns[few], y[few], known[few]) for m in MARGINS]
        self.margin_ = MARGINS[int(np.argmax(densities))]
        response = self._warp(y)
        self._mean, self._std = response.mean(), max(response.std(), 1e-12)
        standard = (response - self._mean) / self._std
        extra = self._variance(response, known, self._std)
        models: dict[Kind, GaussianProcess | BoostedTrees] = {
            kind: self._process(kind)
            .fit(columns[some], standard[some], extra[some])
            .condition(columns, standard, extra)
            for kind in self.kinds
            if kind != "boosted"
        }
        if "boosted" in self.kinds:
            common = min((model.noise_std_ for model in models.values()), default=0.0)
            models["boosted"] = BoostedTrees().fit(columns, standard, extra, common)
        self.models_ = [models[kind] for kind in self.kinds]
        self.rank_correlation_ = np.array(
            [kendall_tau(standard, model.left_out_) for model in self.models_]
        )
        density = np.array([model.log_density_ for model in self.models_])
        score = self.rank_correlation_ / RANK_SCALE + density * np.sqrt(len(y)) / DENSITY_SCALE
        share = np.exp(score - score.max())
        share[share < SMALLEST_SHARE * share.sum()] = 0.0
        self.weights_ = share / share.sum()
        self.noise_std_ = float(self.weights_ @ [model.noise_std_ for model in self.models_])
        return self

    def _process(self, kind: Kernel) -> GaussianProcess:
        return GaussianProcess(kind, self._encoder.groups(), self._encoder.families())

    def _density(
        self, margin: float, columns: Floats, y: NDArray[np.floating], noise: Floats
    ) -> float:
        """Mean log density of each response given all others under a margin, by a quick model."""
        self.margin_ = margin
        response = self._warp(y)
        std = max(response.std(), 1e-12)
        extra = self._variance(response, noise, std)
        model = self._process("shared").fit(columns, (response - response.mean()) / std, extra)
        # Of the responses themselves, not of their warped values: the slope of the warp.
        slope = 0.0 if self._unit <= 0 else response.mean() - np.log(self._unit)
        return model.log_density_ + float(slope) - float(np.log(std))

    def condition(
        self,
        X: NDArray[np.generic],
        y: NDArray[np.floating],
        noise: NDArray[np.floating] | None = None,
    ) -> Self:
        """Take other observations, as `fit` does, with everything learnt kept.

        Raises:
            UsageError: if the rows are not the shape of those fitted, or the noise is not theirs.
        """
        columns = self._columns(X)
        response = self._warp(np.asarray(y, dtype=np.float64))
        standard = (response - self._mean) / self._std
        extra = self._variance(response, _known_noise(noise, len(columns)), self._std)
        for model, weight in zip(self.models_, self.weights_, strict=True):
            if weight:
                model.condition(columns, standard, extra)
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
        kept = np.flatnonzero(self.weights_)
        each = [(self.weights_[i], *self.models_[i].predict(columns)) for i in kept]
        mean = sum(w * m for w, m, _ in each)
        variance = sum(w * (s**2 + (m - mean) ** 2) for w, m, s in each)
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
        gap = (self._best - better) / self._unit + self.margin_
        return -np.log(np.maximum(gap, MIN_SHARE * self.margin_))

    def _variance(self, response: Floats, noise: Floats, std: float) -> Floats:
        """Variance of warped responses scaled by 1 / std, of standard errors before the warp."""
        slope = np.exp(response) / self._unit if self._unit > 0 else 1.0
        variance: Floats = (noise * slope / std) ** 2
        return variance

    def _unwarp(self, response: Floats) -> Floats:
        better = response
        if self._unit > 0:
            better = self._best + (self.margin_ - np.exp(-response)) * self._unit
        return better if self.maximise else -better


def _known_noise(noise: NDArray[np.floating] | None, n: int) -> Floats:
    """Standard errors (n,), zero unless given."""
    known = np.zeros(n) if noise is None else np.asarray(noise, dtype=np.float64)
    if known.shape != (n,) or not (np.isfinite(known) & (known >= 0)).all():
        raise UsageError(
            "the noise of an accuracy predictor's responses is one number a row, 0 or more.",
            "Give 0 where a response has no error of its own.",
        )
    return known


def _spread(n: int, most: int) -> NDArray[np.int64]:
    """At most so many of `n` rows, spread evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))
