"""Gaussian processes over the columns of genomes, fitted in hundredths of a second.

Rasmussen and Williams 2006. The kernel works on columns whose weighted squared distance is a
matrix product, so that the gradient with respect to every gene's weight costs no more than one.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, cholesky
from scipy.linalg.blas import dtrmm
from scipy.linalg.lapack import dtrtri
from scipy.optimize import minimize

Floats = NDArray[np.float64]
Kernel = Literal["ard", "shared", "linear"]

MAX_STEPS = 60
# Rows predicted at once: their kernel stays in the cache.
CHUNK = 256
JITTER = 1e-8
# Log-normal priors as (mean, standard deviation) of the logarithm. Responses have unit variance.
PRIOR_WEIGHT_STD = 1.5
PRIOR_SMOOTH = (0.0, 1.0)
PRIOR_SLOPE = (0.0, 1.5)
PRIOR_NOISE = (-5.0, 1.5)
# Hyper-parameters stay within so many prior standard deviations.
BOUND = 4.0


class _Rows(NamedTuple):
    """Columns (n, columns), and what the kernel makes of them: centred, and scaled by weight."""

    x: Floats
    centred: Floats
    scaled: Floats


class GaussianProcess:
    """A Gaussian process with kernel smooth * exp(-d/2) + sum_g slope_g <z_g, z_g'> + noise.

    d is the squared distance of columns, weighted by gene; <z_g, z_g'> the inner product of the
    centred columns of a gene, scaled to unit variance. Weights, slopes and amplitudes maximise
    the posterior under log-normal priors, from one start, so that the fit is a function of the
    data alone.

    Args:
        kind: `ard` learns a weight a gene and one slope, `shared` a weight and a slope for each
            ladder of genes, `linear` has slopes as `shared` and no smooth part.
        groups: the gene of each column, (columns,).
        families: the ladder of each gene, (genes,).
    """

    def __init__(
        self, kind: Kernel, groups: NDArray[np.int64], families: NDArray[np.int64]
    ) -> None:
        self.kind = kind
        self.groups = groups
        self.families = families
        self._membership = (groups[:, None] == np.arange(groups.max() + 1)).astype(np.float64)

    def fit(self, x: Floats, y: Floats, extra: Floats | float = 0.0) -> Self:
        """Learn the weights and amplitudes from columns (n, columns) and responses (n,).

        Args:
            x: columns.
            y: responses.
            extra: variance (n,) of the responses that is known, beside the noise that is learnt.
        """
        self.prepare(x)
        start = np.zeros(self._free.shape[1])
        found = minimize(
            self.loss,
            start,
            args=(y, extra),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-BOUND, BOUND)] * len(start),
            options={"maxiter": MAX_STEPS},
        )
        self._weights, self._slopes, self._smooth, self._noise = self._hyperparameters(found.x)
        self._replace(x, np.broadcast_to(extra, len(x)))
        return self.condition(x, y, extra)

    def prepare(self, x: Floats) -> None:
        """Set the priors and scales for columns (n, columns), and which hyper-parameters move."""
        n = self._membership.shape[1]
        self._offset = x.mean(axis=0)
        variance = (x.var(axis=0) @ self._membership)[self.groups]
        varies = variance > 1e-12
        self._z_scale = np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1) * n), 0)
        # Prior weights make the mean squared distance of two rows 1.
        typical = max(2 * float(x.var(axis=0).sum()), 1e-12)
        mean = [-np.log(typical)] * n + [PRIOR_SLOPE[0]] * n + [PRIOR_SMOOTH[0], PRIOR_NOISE[0]]
        std = [PRIOR_WEIGHT_STD] * n + [PRIOR_SLOPE[1]] * n + [PRIOR_SMOOTH[1], PRIOR_NOISE[1]]
        self._prior_mean, self._prior_std = np.array(mean), np.array(std)
        each, one = np.eye(n), np.ones((n, 1))
        family = (self.families[:, None] == np.unique(self.families)).astype(np.float64)
        weights, slopes = {
            "ard": (each, one),
            "shared": (family, family),
            "linear": (one[:, :0], family),
        }[self.kind]
        amplitudes = np.eye(2)[:, 1:] if self.kind == "linear" else np.eye(2)
        self._free = block_diag(weights, slopes, amplitudes)
        self._learnt_from = x, x**2, self._centred(x)
        # Fresh memory for each matrix of each step would cost as much as the arithmetic.
        self._work = np.empty((3, len(x), len(x)))

    def _hyperparameters(self, step: Floats) -> tuple[Floats, Floats, float, float]:
        """Weights and slopes (genes,), smooth and noise, `step` prior deviations off."""
        n = self._membership.shape[1]
        theta = np.exp(self._prior_mean + (self._free @ step) * self._prior_std)
        smooth = 0.0 if self.kind == "linear" else float(theta[-2])
        return theta[:n], theta[n:-2], smooth, float(theta[-1])

    def loss(self, step: Floats, y: Floats, extra: Floats | float = 0.0) -> tuple[float, Floats]:
        """Negative log posterior of the free hyper-parameters, and its gradient.

        Args:
            step: prior standard deviations away from the prior mean, (free,).
            y: responses to the columns that were prepared for, (n,).
            extra: as in `fit`.
        """
        weights, slopes, smooth, noise = self._hyperparameters(step)
        x, squared, z = self._learnt_from
        kernel, k_smooth, outer = self._work
        # A product with the array's own transpose is half the work of any other.
        scaled = z * np.sqrt(slopes[self.groups])
        np.matmul(scaled, scaled.T, out=kernel)
        if smooth:
            np.multiply(x, np.sqrt(weights[self.groups]), out=scaled)
            np.matmul(scaled, scaled.T, out=k_smooth)
            half = 0.5 * np.diag(k_smooth)
            k_smooth -= half[:, None]
            k_smooth -= half[None, :]
            np.exp(np.minimum(k_smooth, 0.0, out=k_smooth), out=k_smooth)
            k_smooth *= smooth
            kernel += k_smooth
        kernel[np.diag_indices_from(kernel)] += noise + JITTER + extra
        factor = cholesky(kernel.T, lower=True, overwrite_a=True, check_finite=False)
        log_determinant = 2 * np.log(np.diag(factor)).sum()
        root, _ = dtrtri(factor, lower=1, overwrite_c=1)
        inverse = np.matmul(root.T, root, out=outer)
        alpha = inverse @ y
        value = 0.5 * (y @ alpha + log_determinant + step @ step)
        outer -= np.multiply(alpha[:, None], alpha[None, :], out=kernel)
        outer *= 0.5
        trace = np.trace(outer)
        slope_gradient = slopes * (np.einsum("ij,ij->j", z, outer @ z) @ self._membership)
        weight_gradient, smooth_gradient = np.zeros_like(weights), 0.0
        if smooth:
            m = np.multiply(outer, k_smooth, out=outer)
            # sum_ij m_ij (x_i - x_j)^2 of every column, without a table of the differences.
            per_column = 2 * (m.sum(axis=0) @ squared - np.einsum("ij,ij->j", x, m @ x))
            weight_gradient = -0.5 * weights * (per_column @ self._membership)
            smooth_gradient = m.sum()
        gradient = np.concatenate(
            [weight_gradient, slope_gradient, [smooth_gradient, noise * trace]]
        )
        return float(value), self._free.T @ (gradient * self._prior_std) + step

    def _rows(self, x: Floats) -> _Rows:
        root = np.sqrt(self._weights[self.groups])
        return _Rows(x, self._centred(x), x * root if self._smooth else x)

    def _kernel(self, a: _Rows, b: _Rows) -> Floats:
        kernel: Floats = (a.centred * self._slopes[self.groups]) @ b.centred.T
        if self._smooth:
            smooth = _squared_distances(a.scaled, b.scaled)
            smooth *= -0.5
            kernel += self._smooth * np.exp(smooth, out=smooth)
        return kernel

    def condition(self, x: Floats, y: Floats, extra: Floats | float = 0.0) -> Self:
        """Take other observations, as `fit` does, under the weights learnt already.

        Rows that follow those taken before are added one after another, so that the outcome does
        not depend on how many came at a time.
        """
        n, extra = len(self._seen.x), np.broadcast_to(extra, len(x))
        same = n <= len(x) and (x[:n] == self._seen.x).all() and (extra[:n] == self._extra).all()
        if same:
            for row in range(n, len(x)):
                self._add(x[row : row + 1], extra[row])
        else:
            self._replace(x, extra)
        self._y = y
        self._alpha = self._root.T @ (self._root @ y)
        if not self._smooth:
            self._effects = (self._seen.centred * self._slopes[self.groups]).T @ self._alpha
        return self

    def _replace(self, x: Floats, extra: Floats) -> None:
        """Take the rows in place of all others."""
        self._seen, self._extra = self._rows(x), extra
        kernel = self._kernel(self._seen, self._seen)
        kernel[np.diag_indices_from(kernel)] += self._noise + JITTER + extra
        factor = cholesky(kernel, lower=True, check_finite=False)
        # The factor's inverse: a product with it is faster than solving anew for many rows.
        self._root, _ = dtrtri(factor, lower=1)
        if not self._smooth:
            slopes = self._slopes[self.groups]
            explained = self._root @ (self._seen.centred * slopes)
            self._left = np.diag(slopes) - explained.T @ explained

    def _add(self, x: Floats, extra: float) -> None:
        """Take one more row, (1, columns): a row more of the factor's inverse."""
        n, row = len(self._seen.x), self._rows(x)
        beside = self._root @ self._kernel(self._seen, row)[:, 0]
        own = self._kernel(row, row)[0, 0] + self._noise + JITTER + extra
        pivot = np.sqrt(own - beside @ beside)
        root = np.zeros((n + 1, n + 1), order="F")
        root[:n, :n] = self._root
        root[n, :n] = -(beside @ self._root) / pivot
        root[n, n] = 1 / pivot
        self._root = root
        self._seen = _Rows(*(np.concatenate(pair) for pair in zip(self._seen, row, strict=True)))
        self._extra = np.append(self._extra, extra)
        if not self._smooth:
            explained = root[n] @ (self._seen.centred * self._slopes[self.groups])
            self._left = self._left - np.outer(explained, explained)

    @property
    def _precision(self) -> Floats:
        """Of each response given all others, (n,)."""
        precision: Floats = (self._root**2).sum(axis=0)
        return precision

    @property
    def left_out_(self) -> Floats:
        """Mean of each response given all others, (n,)."""
        left_out: Floats = self._y - self._alpha / self._precision
        return left_out

    @property
    def log_density_(self) -> float:
        """Mean log density of each response given all others."""
        precision = self._precision
        density = 0.5 * np.log(precision / (2 * np.pi)) - 0.5 * self._alpha**2 / precision
        return float(density.mean())

    @property
    def noise_std_(self) -> float:
        """Noise of a response."""
        return float(np.sqrt(self._noise))

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the noise-free response, (n,) each."""
        parts = [self._predict(x[i : i + CHUNK]) for i in range(0, max(len(x), 1), CHUNK)]
        mean, variance = (np.concatenate(each) for each in zip(*parts, strict=True))
        return mean, np.sqrt(np.maximum(variance, 1e-12))

    def _predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and variance."""
        rows = self._rows(x)
        z = rows.centred
        if not self._smooth:  # as many numbers a row as columns, not as observations
            return z @ self._effects, ((z @ self._left) * z).sum(axis=1)
        cross = self._kernel(rows, self._seen)
        part = dtrmm(1.0, self._root, cross.T, lower=1)
        explained = np.einsum("ij,ij->j", part, part)
        prior = self._smooth + (z**2) @ self._slopes[self.groups]
        return cross @ self._alpha, prior - explained

    def _centred(self, x: Floats) -> Floats:
        centred: Floats = (x - self._offset) * self._z_scale
        return centred


def _squared_distances(a: Floats, b: Floats) -> Floats:
    """Squared Euclidean distances of rows, (len(a), len(b))."""
    distances: Floats = (-2 * a) @ b.T
    distances += (a**2).sum(1)[:, None]
    distances += (b**2).sum(1)[None, :]
    return np.maximum(distances, 0.0, out=distances)
