"""Latency on a new device from a few networks measured there and many measured on other devices.

Over networks, the log latencies of devices vary along a few directions, each device with noise of
its own. Factor analysis (Lawley and Maxwell 1971) finds the directions and what of each network's
latencies is signal; where networks come with columns that describe them, a ridge regression on
these is each network's prior. A new device is then either one of the known ones, a little changed,
or a draw of what they have in common: Bayesian linear regressions in the factors, one for each
device and scale that it could be near to, averaged by their evidence.

    transfer = DeviceTransfer().fit(latencies_ms)       # networks x known devices
    rows = transfer.choose()                            # the ten networks to measure
    new = transfer.adapt(rows, measured_ms)             # all networks on the new device
    new.latency_ms, new.upper_ms
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

# Noise variances of a new device that are weighed by their evidence, beside a signal of 1.
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0, 2.0)
# How far a device is from a known one, as a share of how far devices load from nothing.
NEARNESSES = (0.25, 0.5)
# Scales of a new device, in standard deviations of the log of the known ones' scales.
SCALES = np.linspace(-2, 2, 9)
# Logs count up to so many standard deviations from the middle: a runtime may skip a whole network.
FARTHEST = 6.0
# Prior standard deviation of the level: as good as none.
ANY_LEVEL = 100.0
DESIGN_NOISE = 0.2
# Prior standard deviation of the new device's level and scale when networks are chosen.
DESIGN_PRIOR = 3.0
EM_STEPS = 60
MIN_UNIQUE = 0.002
MIN_PRIOR = 0.02
RIDGE = 3.0
# Networks on which the bound is calibrated, at most.
CALIBRATION = 2000


@dataclass(frozen=True)
class AdaptedDevice:
    """What is predicted for every network on the new device.

    Attributes:
        latency_ms: (networks,).
        spread: standard deviation of the log of a measurement around it, (networks,).
        upper_ms: one-sided upper bound of a measurement, (networks,).
    """

    latency_ms: Floats
    spread: Floats
    upper_ms: Floats


class DeviceTransfer(BaseEstimator):  # type: ignore[misc]
    """Adapts what is known of many devices to a new one by a few measurements.

    Args:
        factors: directions in which devices differ, at most 0.6 times the known devices.
        coverage: of the upper bound, calibrated by leaving each known device out.
        calibrate: whether to; without, the bound is that of a normal distribution.

    Attributes:
        factors_: each network's, (networks, factors).
        loadings_: of each known device's standardised log latency, (devices, factors).
        scale_: middle standard deviation of a device's log latencies; scale_spread_: that of its
            log over devices.
        quantile_: of errors over their predicted standard deviation.
    """

    def __init__(self, factors: int = 8, coverage: float = 0.9, calibrate: bool = True) -> None:
        self.factors = factors
        self.coverage = coverage
        self.calibrate = calibrate

    def fit(self, X: Floats, y: None = None, columns: Floats | None = None) -> Self:
        """Learn what devices have in common.

        Args:
            X: latencies in ms of networks on known devices, (networks, devices), all positive;
                two devices at least.
            y: ignored.
            columns: what describes the networks, if anything, (networks, columns).

        Raises:
            ValueError: if a latency is not positive, or there are too few networks or devices.
        """
        X = np.asarray(X, np.float64)
        if X.ndim != 2 or X.shape[1] < 2 or len(X) < 3:
            raise ValueError("latencies must be those of at least 3 networks on 2 devices")
        if not (np.all(np.isfinite(X)) and np.all(X > 0)):
            raise ValueError("latencies must be positive")
        if columns is not None:
            columns = _standardized(np.asarray(columns, np.float64))
        logs = np.log(X)
        middle = np.median(logs, axis=0)
        reach = FARTHEST * 1.4826 * np.median(np.abs(logs - middle), axis=0)
        logs = np.where(reach > 0, np.clip(logs, middle - reach, middle + reach), logs)
        log_scales = np.log(np.maximum(logs.std(axis=0), 1e-6))
        self.scale_ = float(np.exp(log_scales.mean()))
        self.scale_spread_ = max(float(log_scales.std()), 0.1)
        z = _standardized(logs)
        self.factors_, self.loadings_ = _common_factors(z, self.factors, columns)
        self.quantile_ = 1.2816
        if self.calibrate and X.shape[1] > 2:
            self.quantile_ = self._calibrated(X, columns)
        return self

    def choose(self, n: int = 10) -> Rows:
        """Rows of the networks whose measurement will tell most of all others, (n,).

        Each is that which lowers most the summed posterior variance of all networks.
        """
        check_is_fitted(self)
        shared = self.factors_ @ self.loadings_.mean(axis=0)
        shared = DESIGN_PRIOR * shared / max(float(shared.std()), 1e-12)
        level = np.full(len(shared), DESIGN_PRIOR)
        moment = self.loadings_.T @ self.loadings_ / len(self.loadings_)
        design = np.column_stack([level, shared, self.factors_ @ _root(moment)])
        moment = design.T @ design / len(design)
        covariance = np.eye(design.shape[1])
        chosen: list[int] = []
        for _ in range(min(n, len(design))):
            spread = design @ covariance
            variance = np.sum(spread * design, axis=1) + DESIGN_NOISE
            gain = np.sum((spread @ moment) * spread, axis=1) / variance
            gain[chosen] = -1.0
            best = int(np.argmax(gain))
            chosen.append(best)
            covariance -= np.outer(spread[best], spread[best]) / variance[best]
        return np.array(chosen)

    def adapt(self, rows: Rows, latency_ms: Floats) -> AdaptedDevice:
        """Predict all networks on a device where some have been measured.

        Args:
            rows: of the measured networks, (n,), two at least.
            latency_ms: measured there, (n,).

        Raises:
            ValueError: if there are too few, or a latency is not positive.
        """
        check_is_fitted(self)
        latency_ms = np.asarray(latency_ms, np.float64)
        if len(rows) < 2 or len(rows) != len(latency_ms):
            raise ValueError("at least two networks must be measured, each with its latency")
        if not (np.all(np.isfinite(latency_ms)) and np.all(latency_ms > 0)):
            raise ValueError("latencies must be positive")
        logs = np.log(latency_ms)
        middle = float(np.median(logs))
        reach = FARTHEST * self.scale_ * np.exp(-SCALES[0] * self.scale_spread_)
        logs = np.clip(logs, middle - reach, middle + reach)
        mean, spread = self._averaged(rows, (logs - middle) / self.scale_)
        latency, spread = np.exp(middle + mean * self.scale_), spread * self.scale_
        upper = latency * np.exp(np.maximum(self.quantile_ * spread, 0.0))
        return AdaptedDevice(latency, spread, upper)

    def _averaged(self, rows: Rows, y: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of further measurements, (networks,) each.

        A device has a level and a loading on each factor, together `1 + factors` numbers with a
        normal prior in units of the device's scale.
        """
        known, inputs = (
            self.loadings_,
            np.column_stack([np.ones(len(self.factors_)), self.factors_]),
        )
        seen, n = inputs[rows], len(rows)
        moment = known.T @ known / len(known)
        shared = known.mean(axis=0, keepdims=True)
        # (centres, covariance around them): a known device changed, or any that is like them all
        priors = [(known, near**2 * moment) for near in NEARNESSES]
        priors.append((shared, np.cov(known.T, ddof=1).reshape(moment.shape)))
        scales = np.exp(SCALES * self.scale_spread_)
        parts: list[tuple[Floats, Floats, Floats, float]] = []
        for centres, covariance in priors:
            prior = np.zeros((inputs.shape[1],) * 2)
            prior[0, 0], prior[1:, 1:] = ANY_LEVEL**2, covariance
            means = np.column_stack([np.zeros(len(centres)), centres])
            left = y / scales[:, None, None] - means @ seen.T  # (scales, centres, n)
            for noise in NOISES:
                kernel = seen @ prior @ seen.T + noise * np.eye(n)
                inverse = np.linalg.inv(kernel)
                gain = prior @ seen.T @ inverse
                evidence = -0.5 * np.sum((left @ inverse) * left, axis=2) - np.log(len(centres))
                evidence -= 0.5 * float(np.linalg.slogdet(kernel)[1])
                # the level is flat in ms, so that n measurements tell of a scale as n - 1 do
                evidence -= ((n - 1) * np.log(scales) + 0.5 * SCALES**2)[:, None]
                posterior = prior - gain @ seen @ prior
                parts.append((evidence, means + left @ gain.T, posterior, noise))
        highest = max(float(part[0].max()) for part in parts)
        total, first, second, noises = 0.0, 0.0, 0.0, 0.0
        for evidence, at, posterior, noise in parts:
            weight = np.exp(evidence - highest)
            by_scale = weight.sum(axis=1) * scales**2
            total = total + float(weight.sum())
            first = first + np.einsum("sc,s,scp->p", weight, scales, at)
            second = second + np.einsum("sc,s,scp,scq->pq", weight, scales**2, at, at)
            second = second + by_scale.sum() * posterior
            noises = noises + float(by_scale.sum()) * noise
        mean = inputs @ (first / total)
        square = np.sum((inputs @ (second / total)) * inputs, axis=1)
        return mean, np.sqrt(np.maximum(square - mean**2, 0.0) + noises / total)

    def _calibrated(self, X: Floats, columns: Floats | None) -> float:
        """The quantile that holds on a known device if it is left out, over devices.

        Devices are exchangeable, networks on one device are not: the quantile counts a further
        device, on which every error may be too large (hierarchical conformal prediction, Lee,
        Barber and Willett 2023), as far as there are devices enough for that.
        """
        kept = np.linspace(0, len(X) - 1, min(len(X), CALIBRATION)).astype(np.int64)
        scores = []
        for device in range(X.shape[1]):
            others = DeviceTransfer(self.factors, self.coverage, calibrate=False).fit(
                np.delete(X[kept], device, axis=1),
                columns=None if columns is None else columns[kept],
            )
            rows, measured = others.choose(), X[kept, device]
            adapted = others.adapt(rows, measured[rows])
            error = np.log(measured / adapted.latency_ms) / adapted.spread
            scores.append(np.delete(error, rows))
        share = min(self.coverage * (1 + 1 / X.shape[1]), (1 + self.coverage) / 2)
        return float(np.quantile(np.concatenate(scores), share))


def _standardized(values: Floats) -> Floats:
    spread = values.std(axis=0)
    return np.asarray((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0))


def _root(covariance: Floats) -> Floats:
    """A square root of a covariance, (p, p)."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0.0)))


def _common_factors(z: Floats, wanted: int, columns: Floats | None) -> tuple[Floats, Floats]:
    """Posterior means of factors (networks, factors), and loadings (devices, factors).

    Args:
        z: standardised log latencies, (networks, devices).
        wanted: factors at most.
        columns: standardised, describing the networks, or none.
    """
    devices = z.shape[1]
    n_factors = max(1, min(wanted, int(0.6 * devices)))
    covariance = z.T @ z / len(z)
    # start from what the other devices do not explain of each
    unique = np.maximum(1 / np.diag(np.linalg.inv(covariance + 1e-3 * np.eye(devices))), 0.01)
    for _ in range(EM_STEPS):
        root = np.sqrt(unique)
        values, vectors = np.linalg.eigh(covariance / np.outer(root, root))
        values, vectors = values[::-1][:n_factors], vectors[:, ::-1][:, :n_factors]
        loadings = root[:, None] * vectors * np.sqrt(np.maximum(values - 1, 1e-9))
        unique = np.maximum(np.diag(covariance) - np.sum(loadings**2, axis=1), MIN_UNIQUE)
    weighted = loadings / unique[:, None]
    precision = loadings.T @ weighted
    prior, variance = np.zeros((len(z), n_factors)), np.ones(n_factors)
    if columns is not None:
        unshrunk = z @ weighted @ np.linalg.inv(precision + 1e-6 * np.eye(n_factors))
        gram = columns.T @ columns + RIDGE * np.eye(columns.shape[1])
        prior = columns @ np.linalg.solve(gram, columns.T @ unshrunk)
        variance = np.maximum(1 - prior.var(axis=0), MIN_PRIOR)
    posterior = np.linalg.inv(np.diag(1 / variance) + precision)
    factors = prior + (z - prior @ loadings.T) @ weighted @ posterior
    return np.asarray(factors), loadings
