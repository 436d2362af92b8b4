"""Latency on a new device from a few networks measured there and many measured on other devices.

Over networks, the log latencies of devices vary along a few directions, each device with noise of
its own. Factor analysis (Lawley and Maxwell 1971) finds the directions and what of each network's
latencies is signal; where networks come with columns that describe them, a ridge regression on
these is each network's prior. A new device is then a draw of what the known ones have in common:
a Bayesian linear regression in the factors, whose prior is how known devices load on them.

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
NOISES = (0.03, 0.1, 0.3, 1.0)
DESIGN_NOISE = 0.2
# Prior standard deviation of the new device's level and scale when networks are chosen.
DESIGN_PRIOR = 3.0
# The scale of a new device's errors is that of this many prior measurements and its own.
PRIOR_COUNT = 4.0
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
        factors_: each network's factors, scaled so that a device's loadings have unit variance,
            (networks, factors).
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
        self.scale_ = float(np.mean(logs.std(axis=0)))
        self.factors_ = _common_factors(_standardized(logs), self.factors, columns)
        self.quantile_ = 1.2816
        if self.calibrate and X.shape[1] > 2:
            self.quantile_ = self._calibrated(X, columns)
        return self

    def choose(self, n: int = 10) -> Rows:
        """Rows of the networks whose measurement will tell most of all others, (n,).

        Each is that which lowers most the summed posterior variance of all networks.
        """
        check_is_fitted(self)
        mean = self.factors_ @ self.factors_.mean(axis=0)  # along what devices share
        mean = DESIGN_PRIOR * mean / max(float(mean.std()), 1e-12)
        level = np.full(len(mean), DESIGN_PRIOR)
        design = np.column_stack([level, mean, self.factors_])
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
        mean, spread = _regression(self.factors_, rows, np.log(latency_ms) / self.scale_)
        latency, spread = np.exp(mean * self.scale_), spread * self.scale_
        upper = latency * np.exp(np.maximum(self.quantile_ * spread, 0.0))
        return AdaptedDevice(latency, spread, upper)

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


def _common_factors(z: Floats, wanted: int, columns: Floats | None) -> Floats:
    """Posterior means of factors, turned to how devices load on them, (networks, factors).

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
    # the second moment of the known devices' loadings is the prior of the new one's
    values, vectors = np.linalg.eigh(loadings.T @ loadings / devices)
    return np.asarray(factors @ (vectors * np.sqrt(np.maximum(values, 0.0))))


def _regression(factors: Floats, rows: Rows, y: Floats) -> tuple[Floats, Floats]:
    """Mean and standard deviation of further measurements, (networks,) each.

    Loadings have unit prior variance, the level a flat prior; noise variances are averaged by
    their evidence, with the scale of everything integrated out.
    """
    seen, ones = factors[rows], np.ones(len(rows))
    n = len(rows)
    log_evidence, means, variances = [], [], []
    for noise in NOISES:
        kernel = seen @ seen.T + noise * np.eye(n)
        inverse = np.linalg.inv(kernel)
        information = float(ones @ inverse @ ones)
        level = float(ones @ inverse @ y) / information
        left = y - level
        alpha = inverse @ left
        scale = (PRIOR_COUNT + float(left @ alpha)) / (PRIOR_COUNT + n - 1)
        log_evidence.append(
            -0.5 * np.linalg.slogdet(kernel)[1]
            - 0.5 * np.log(information)
            - 0.5 * (PRIOR_COUNT + n - 1) * np.log(scale)
        )
        cross = factors @ seen.T
        solved = cross @ inverse
        prior = np.sum(factors**2, axis=1) + noise
        of_level = np.square(1 - solved @ ones) / information
        means.append(level + cross @ alpha)
        variances.append(scale * (prior - np.sum(solved * cross, axis=1) + of_level))
    weight = np.exp(np.array(log_evidence) - max(log_evidence))
    weight /= weight.sum()
    mean = weight @ np.array(means)
    variance = weight @ (np.array(variances) + np.square(np.array(means) - mean))
    return mean, np.sqrt(np.maximum(variance, 1e-12))
