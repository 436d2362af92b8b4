"""Gaussian processes over the active genes of a genome, fitted in hundredths of a second.

Rasmussen and Williams 2006. The kernel works on columns whose weighted squared distance is a
matrix product, so that the gradient with respect to every gene's weight costs no more than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from search_spaces.choices import ChoiceSet

Floats = NDArray[np.float64]
Kind = Literal["ard", "isotropic", "linear"]

MAX_STEPS = 60
JITTER = 1e-8
# Log-normal priors as (mean, standard deviation) of the logarithm. Responses have unit variance.
PRIOR_WEIGHT_STD = 1.5
PRIOR_SMOOTH = (0.0, 1.0)
PRIOR_LINEAR = (0.0, 1.5)
PRIOR_NOISE = (-5.0, 1.5)
# Hyper-parameters stay within so many prior standard deviations.
BOUND = 4.0


@dataclass(frozen=True)
class Encoder:
    """Genomes and features as columns whose weighted squared distance is the kernel's.

    An ordinal gene is one column from 1/size to 1, any other is one-hot; an inactive gene is 0 in
    all its columns. Features are standardised on the rows that it was made from.

    Attributes:
        choices: of the genome.
        mean, scale: of the features, (features,).
    """

    choices: ChoiceSet
    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, choices: ChoiceSet, rows: Floats) -> Encoder:
        """The encoder for rows (n, genes + features)."""
        features = rows[:, len(choices) :]
        spread = features.std(axis=0)
        return cls(choices, features.mean(axis=0), np.where(spread > 0, spread, 1.0))

    def groups(self) -> NDArray[np.int64]:
        """For each column the gene or feature it belongs to, (columns,)."""
        counts = [1 if c.ordinal else len(c.values) for c in self.choices.choices]
        counts += [1] * len(self.mean)
        return np.repeat(np.arange(len(counts)), counts)

    def __call__(self, rows: Floats) -> Floats:
        """Rows (n, genes + features) -> (n, columns)."""
        n_genes = len(self.choices)
        genomes = rows[:, :n_genes].astype(np.int64)
        active = self.choices.active(genomes)
        columns = []
        for g, choice in enumerate(self.choices.choices):
            size = len(choice.values)
            if choice.ordinal:
                columns.append(((genomes[:, g] + 1) / size * active[:, g])[:, None])
            else:
                hot = (genomes[:, g, None] == np.arange(size)) & active[:, g, None]
                columns.append(hot / np.sqrt(2))
        columns.append((rows[:, n_genes:] - self.mean) / self.scale)
        return np.concatenate(columns, axis=1).astype(np.float64)


class GaussianProcess:
    """A Gaussian process with kernel smooth * exp(-d/2) + linear * <z, z'> + noise.

    d is the squared distance of columns, weighted by gene; <z, z'> the inner product of centred
    columns, each gene of unit variance. Weights and amplitudes maximise the posterior under
    log-normal priors, from one start, so that the fit is a function of the data alone.

    Args:
        kind: `ard` learns a weight a gene, `isotropic` one for all, `linear` has no smooth part.
        groups: the gene of each column, (columns,).
    """

    def __init__(self, kind: Kind, groups: NDArray[np.int64]) -> None:
        self.kind = kind
        self.groups = groups
        self._membership = (groups[:, None] == np.arange(groups.max() + 1)).astype(np.float64)

    def fit(self, x: Floats, y: Floats) -> Self:
        """Learn the weights and amplitudes from columns (n, columns) and responses (n,)."""
        self.prepare(x)
        start = np.zeros(self._free.shape[1])
        found = minimize(
            self.loss,
            start,
            args=(x, y),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-BOUND, BOUND)] * len(start),
            options={"maxiter": MAX_STEPS},
        )
        self._weights, amplitudes = self._hyperparameters(found.x)
        self._smooth, self._linear, self._noise = (float(a) for a in amplitudes)
        return self.condition(x, y)

    def prepare(self, x: Floats) -> None:
        """Set the priors and scales for columns (n, columns), and which hyper-parameters move."""
        n_groups = self._membership.shape[1]
        self._offset = x.mean(axis=0)
        variance = (x.var(axis=0) @ self._membership)[self.groups]
        varies = variance > 1e-12
        self._z_scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1) * n_groups), 0)
        # Prior weights make the mean squared distance of two rows 1.
        typical = max(2 * float(x.var(axis=0).sum()), 1e-12)
        amplitudes = (PRIOR_SMOOTH, PRIOR_LINEAR, PRIOR_NOISE)
        self._prior_mean = np.array([-np.log(typical)] * n_groups + [m for m, _ in amplitudes])
        self._prior_std = np.array([PRIOR_WEIGHT_STD] * n_groups + [s for _, s in amplitudes])
        each, together = np.eye(n_groups + 3), np.zeros((n_groups + 3, 4))
        together[:n_groups, 0] = 1.0
        together[n_groups:, 1:] = np.eye(3)
        self._free = {"ard": each, "isotropic": together, "linear": together[:, 2:]}[self.kind]

    def _hyperparameters(self, step: Floats) -> tuple[Floats, Floats]:
        """Weights (genes,) and amplitudes (smooth, linear, noise), `step` deviations off."""
        n_groups = self._membership.shape[1]
        theta = np.exp(self._prior_mean + (self._free @ step) * self._prior_std)
        if self.kind == "linear":
            theta[n_groups] = 0.0
        return theta[:n_groups], theta[n_groups:]

    def loss(self, step: Floats, x: Floats, y: Floats) -> tuple[float, Floats]:
        """Negative log posterior of the free hyper-parameters, and its gradient.

        Args:
            step: prior standard deviations away from the prior mean, (free,).
            x: columns, (n, columns).
            y: responses, (n,).
        """
        weights, (smooth, linear, noise) = self._hyperparameters(step)
        scaled = x * np.sqrt(weights[self.groups])
        k_smooth = smooth * np.exp(-0.5 * _squared_distances(scaled, scaled))
        z = (x - self._offset) * self._z_scale
        gram = z @ z.T
        kernel = k_smooth + linear * gram
        kernel[np.diag_indices_from(kernel)] += noise + JITTER
        factor = cho_factor(kernel, lower=True, check_finite=False)
        inverse = cho_solve(factor, np.eye(len(y)), check_finite=False)
        alpha = inverse @ y
        value = 0.5 * y @ alpha + np.log(np.diag(factor[0])).sum() + 0.5 * step @ step
        outer = 0.5 * (inverse - np.outer(alpha, alpha))
        m = outer * k_smooth
        # sum_ij m_ij (x_i - x_j)^2 of every column, without a table of the differences.
        per_column = 2 * (m.sum(axis=0) @ x**2 - (x * (m @ x)).sum(axis=0))
        gradient = np.concatenate(
            [
                -0.5 * weights * (per_column @ self._membership),
                [m.sum(), linear * (outer * gram).sum(), noise * np.trace(outer)],
            ]
        )
        return float(value), self._free.T @ (gradient * self._prior_std) + step

    def _kernel(self, a: Floats, b: Floats) -> Floats:
        root = np.sqrt(self._weights[self.groups])
        za = (a - self._offset) * self._z_scale
        zb = (b - self._offset) * self._z_scale
        linear: Floats = self._linear * (za @ zb.T)
        if self._smooth:
            linear += self._smooth * np.exp(-0.5 * _squared_distances(a * root, b * root))
        return linear

    def condition(self, x: Floats, y: Floats) -> Self:
        """Take other observations, (n, columns) and (n,), under the weights learnt already."""
        kernel = self._kernel(x, x)
        kernel[np.diag_indices_from(kernel)] += self._noise + JITTER
        self._x = x
        self._factor = cho_factor(kernel, lower=True, check_finite=False)
        self._alpha = cho_solve(self._factor, y, check_finite=False)
        inverse = cho_solve(self._factor, np.eye(len(y)), check_finite=False)
        self.left_out_ = y - self._alpha / np.diag(inverse)
        self.noise_std_ = float(np.sqrt(self._noise))
        return self

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the noise-free response, (n,) each."""
        cross = self._kernel(x, self._x)
        mean = cross @ self._alpha
        half = solve_triangular(self._factor[0], cross.T, lower=True, check_finite=False)
        prior = self._smooth + self._linear * (((x - self._offset) * self._z_scale) ** 2).sum(1)
        return mean, np.sqrt(np.maximum(prior - (half**2).sum(axis=0), 1e-12))


def _squared_distances(a: Floats, b: Floats) -> Floats:
    """Squared Euclidean distances of rows, (len(a), len(b))."""
    distances: Floats = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    return np.maximum(distances, 0.0)
