"""Latency of whole networks from ops that were timed one by one, calibrated on timed networks.

A network's time is a constant, plus for each class of ops (kind and precision) its share of the
summed times and a cost a call, plus a cost for every layer whose neighbour runs in another
precision: mixed policies are slower than the sum of their layers. Features are sums over ops, so
populations are array work. Shares are fitted to relative errors with a pull towards 1, costs a call
and of a switch towards 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, nnls

from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import (
    DeviceProfile,
    FitError,
    NetworkModel,
    NetworkTiming,
    OpTiming,
)
from predictors.conformal import conformal_quantile
from predictors.latency import LatencyPredictor, register_network_form
from predictors.metrics import coverage, kendall_tau, mape, median_error
from predictors.op_time import Array, number, numbers

FORM = "measured_sum"
COVERAGE = 0.9
#: Architectures that a fit must have before the two extreme ones are not judged.
LEAST_ARCHITECTURES = 4
#: Neighbours in shape whose error corrects the analytic time of an op that was not timed.
NEIGHBOURS = 4
#: Strength of the pull on shares (per class), on costs a call and on that of a switch, in relative
#: error.
PULL_SHARE, PULL_CALL, PULL_SWITCH = 0.05, 0.02, 0.02
REWEIGHTINGS = 4
#: Networks whose processes differ by more than this times the median set no bound.
STEADY = 1.5
#: Weight of a network whose timing stayed unstable, in the fit of the sum.
UNSTABLE_WEIGHT = 0.3


class MeasuredOps:
    """Times of ops: as measured, and between the measured shapes by a fitted line.

    Each class has t = c0 + c1 MACs + c2 elements moved + c3 weights with non-negative numbers,
    corrected by the errors of the nearest measured shapes.
    """

    def __init__(self, timings: Sequence[OpTiming]) -> None:
        self._table = {t.op: t.timing.median_ms for t in timings}
        self._classes: dict[tuple[str, str], tuple[Array, Array, Array]] = {}
        for key in {(t.kind, t.precision) for t in timings}:
            ops = [o for o in self._table if (o.kind, o.precision) == key]
            times = np.array([self._table[o] for o in ops])
            counts = _counts(ops)
            rows = counts / times[:, None]
            scale = rows.max(axis=0) + 1e-300  # counts differ by orders of magnitude
            weights = nnls(rows / scale, np.ones(len(ops)), maxiter=1000)[0] / scale
            errors = np.log(times / np.maximum(counts @ weights, 1e-9))
            self._classes[key] = (weights, _log_shapes(ops), errors)

    @property
    def classes(self) -> list[tuple[str, str]]:
        """(kind, precision) that were timed, in a fixed order."""
        return sorted(self._classes)

    @property
    def quantizable(self) -> NDArray[np.bool_]:
        """Which classes are of a kind that was timed in several precisions, (classes,)."""
        kinds = [kind for kind, _ in self.classes]
        return np.array([kinds.count(kind) > 1 for kind in kinds], dtype=bool)

    def predict_ms(self, ops: Sequence[Op]) -> Array:
        """Milliseconds of each op, (n_ops,).

        Raises:
            ProfileError: if nothing of its kind and precision was timed.
        """
        times = np.array([self._table.get(op, np.nan) for op in ops])
        missing = np.flatnonzero(np.isnan(times)).tolist()
        for key in {(ops[i].kind, ops[i].precision) for i in missing}:
            if key not in self._classes:
                raise ProfileError(
                    f"the profile has no time for {key[0]} in {key[1]}.",
                    "Measure the device anew with `nas profile`.",
                )
            mine = [i for i in missing if (ops[i].kind, ops[i].precision) == key]
            wanted = [ops[i] for i in mine]
            weights, shapes, errors = self._classes[key]
            apart = np.abs(_log_shapes(wanted)[:, None] - shapes[None]).sum(axis=2)
            near = np.argsort(apart, axis=1)[:, :NEIGHBOURS]
            closeness = 1 / (0.05 + np.take_along_axis(apart, near, axis=1)) ** 2
            correction = (closeness * errors[near]).sum(1) / closeness.sum(1)
            line = np.maximum(_counts(wanted) @ weights, 1e-9)
            times[mine] = line * np.exp(correction)
        return times


def errors_of_ops(timings: Sequence[OpTiming], folds: int = 5) -> dict[tuple[str, str], Array]:
    """Errors of ops that were left out, predicted from the others of their class.

    Returns:
        (kind, precision) -> absolute relative errors, one an op; a class of under `folds` ops is
        left out.
    """
    found: dict[tuple[str, str], list[float]] = {}
    classes: dict[tuple[str, str], list[OpTiming]] = {}
    for t in timings:
        classes.setdefault((t.kind, t.precision), []).append(t)
    for key, mine in sorted(classes.items()):
        for fold in range(folds if len(mine) >= folds else 0):
            known = MeasuredOps([t for i, t in enumerate(mine) if i % folds != fold])
            asked = mine[fold::folds]
            predicted = known.predict_ms([t.op for t in asked])
            true = np.array([t.timing.median_ms for t in asked])
            found.setdefault(key, []).extend(np.abs(predicted / true - 1).tolist())
    return {key: np.array(errors) for key, errors in found.items()}


def _counts(ops: Sequence[Op]) -> Array:
    return np.array([[1.0, o.macs, o.reads + o.writes, o.weights] for o in ops])


def _log_shapes(ops: Sequence[Op]) -> Array:
    # a padding may be 0
    return np.log(np.maximum([[float(s) for s in o.shape] for o in ops], 0.5))


class _Features:
    """Additive features of ops: for each class the summed ms and the number of calls."""

    def __init__(self, timings: Sequence[OpTiming]) -> None:
        self.ops = MeasuredOps(timings)
        self._index = {key: i for i, key in enumerate(self.ops.classes)}
        self.n_classes = len(self._index)

    def __call__(self, ops: Sequence[Op]) -> Array:
        times = self.ops.predict_ms(ops)
        features = np.zeros((len(ops), 2 * self.n_classes))
        rows = np.arange(len(ops))
        column = np.array([self._index[o.kind, o.precision] for o in ops])
        features[rows, column] = times
        features[rows, self.n_classes + column] = 1.0
        return features

    def of_networks(self, networks: Sequence[NetworkTiming]) -> Array:
        """(n_networks, features)."""
        return np.array([self(network.workload()).sum(axis=0) for network in networks])


@dataclass
class Calibration:
    """Fitted numbers of the sum, in ms: constant + shares . times + calls . counts + switch n.

    `n` is how many layers have a neighbour in another precision if the layers stand in random
    order: of c layers, shares q of which run in each precision, c (1 - sum of q^2).

    Attributes:
        quantizable: which classes make such layers, (classes,).
    """

    quantizable: NDArray[np.bool_]
    constant: float = 0.0
    switch: float = 0.0
    shares: Array = field(default_factory=lambda: np.zeros(0))
    calls: Array = field(default_factory=lambda: np.zeros(0))

    def fit(self, features: Array, measured: Array, trust: Array | None = None) -> Calibration:
        """Fit to relative errors of networks (n, 2 classes) measured in ms (n,); weights (n,)."""
        n = features.shape[1] // 2
        times, counts = features[:, :n], features[:, n:]
        typical = float(np.median(times.sum(1) / np.maximum(counts.sum(1), 1)))  # ms a call
        constant, switches = np.ones((len(features), 1)), self._switches(features)[:, None]
        rows = np.hstack([constant, switches, counts, times / typical]) * typical
        rows = rows / measured[:, None]
        pull = np.diag([1e-4, PULL_SWITCH, *[PULL_CALL] * n, *[PULL_SHARE] * n])
        pull *= np.sqrt(len(measured))
        prior = np.concatenate([np.zeros(2 + n), np.ones(n)])
        low = np.concatenate([[0.0, -0.5], np.full(n, -0.5), np.full(n, 0.2)])
        high = np.concatenate([[np.inf], np.full(1 + 2 * n, 5.0)])
        trust = np.ones(len(measured)) if trust is None else trust
        weights = np.sqrt(trust)
        for _ in range(REWEIGHTINGS):  # Huber's: a disturbed reading must not bend the rest
            found = lsq_linear(
                np.vstack([rows * weights[:, None], pull]),
                np.concatenate([weights, pull @ prior]),
                bounds=(low, high),
            ).x
            errors = np.abs(rows @ found - 1)
            limit = 1.5 * float(np.median(errors)) + 1e-6
            weights = np.sqrt(trust * np.minimum(1.0, limit / np.maximum(errors, 1e-12)))
        self.constant, self.switch = (found[:2] * typical).tolist()
        self.calls, self.shares = found[2 : n + 2] * typical, found[n + 2 :]
        return self

    def predict(self, features: Array) -> Array:
        """Milliseconds, (n,)."""
        total: Array = features @ np.concatenate([self.shares, self.calls])
        total += self.constant + self.switch * self._switches(features)
        return np.maximum(total, 1e-6)

    def _switches(self, features: Array) -> Array:
        counts = features[:, features.shape[1] // 2 :][:, self.quantizable]
        layers = counts.sum(axis=1)
        return np.asarray(layers - (counts**2).sum(axis=1) / np.maximum(layers, 1.0))


@register_network_form(FORM)
class MeasuredSumLatency(LatencyPredictor):
    """The calibrated sum of measured op times of a profile."""

    def __init__(self, profile: DeviceProfile, model: NetworkModel) -> None:
        self._features = _Features(profile.ops)
        self.n_features = 2 * self._features.n_classes
        self._sum = Calibration(
            self._features.ops.quantizable,
            number(model.params, "constant_ms"),
            number(model.params, "switch_ms"),
            numbers(model.params, "shares"),
            numbers(model.params, "calls_ms"),
        )
        self._upper_ratio = number(model.params, "upper_ratio")
        self.coverage = model.coverage
        runtime = profile.runtime
        self.provenance = (
            f"measured on {profile.device.name}, {runtime.name} {runtime.version}, "
            f"{runtime.threads} thread{'s' if runtime.threads > 1 else ''}: {len(profile.ops)} ops "
            f"calibrated on {len(profile.networks)} networks"
        )

    def op_features(self, ops: Sequence[Op]) -> Array:
        return self._features(ops)

    def predict(self, features: Array) -> tuple[Array, Array]:
        mean = self._sum.predict(features)
        return mean, mean * self._upper_ratio


def fit_network_model(
    ops: Sequence[OpTiming],
    networks: Sequence[NetworkTiming],
    drift: Sequence[float] = (),
    coverage_wanted: float = COVERAGE,
) -> NetworkModel:
    """Fit the sum on timed networks, with its bound and its error on those held out.

    Args:
        ops: timed one by one.
        networks: timed whole; those marked `held_out` only state the error.
        drift: log ratios of a reading in other processes to the one that is fitted, as further
            uncertainty of a network that is timed there.
        coverage_wanted: of the upper bound.

    Raises:
        ProfileError: if there are too few networks.
    """
    fitted = [n for n in networks if not n.held_out]
    kept_out = [n for n in networks if n.held_out]
    if len(fitted) < 10:
        raise ProfileError(
            f"{len(fitted)} networks are too few to calibrate on.",
            "Give `nas profile` more time, or try when the machine is less busy.",
        )
    features = _Features(ops)
    x, y = features.of_networks(fitted), _measured(fitted)
    spread = np.array([n.timing.spread_between for n in fitted])
    unstable = np.array([n.timing.unstable for n in fitted])
    trust = np.where(unstable, UNSTABLE_WEIGHT, 1.0)
    # the others say more of the machine
    steady = (spread <= STEADY * np.median(spread)) & (~unstable | unstable.all())
    quantizable = features.ops.quantizable
    scores = _cross_scores(x, y, [_architecture(n) for n in fitted], quantizable)[steady]
    scores = scores[~np.isnan(scores)]
    if len(drift):
        scores = np.add.outer(scores, np.asarray(drift)).ravel()
    ratio = float(np.exp(max(conformal_quantile(scores, coverage_wanted), 0.0)))
    model = Calibration(quantizable).fit(x, y, trust)
    error = None
    if kept_out:
        predicted = model.predict(features.of_networks(kept_out))
        truth = _measured(kept_out)
        error = FitError(
            mape=mape(truth, predicted),
            median_error=median_error(truth, predicted),
            kendall_tau=kendall_tau(truth, predicted),
            coverage=coverage(truth, predicted * ratio),
            rows=len(kept_out),
            kept_out="networks whose architectures were not in the fit",
        )
    return NetworkModel(
        form=FORM,
        params={
            "constant_ms": model.constant,
            "switch_ms": model.switch,
            "shares": model.shares.tolist(),
            "calls_ms": model.calls.tolist(),
            "upper_ratio": ratio,
        },
        provenance="measured",
        source=f"{len(ops)} ops and {len(fitted)} networks timed on this device",
        coverage=coverage_wanted,
        error=error,
    )


def _measured(networks: Sequence[NetworkTiming]) -> Array:
    return np.array([n.timing.median_ms for n in networks])


def _architecture(network: NetworkTiming) -> str:
    """What networks of equal shapes and any precisions share."""
    return repr([(kind, shape) for kind, shape, _ in network.ops])


def _cross_scores(
    x: Array, y: Array, groups: Sequence[str], quantizable: NDArray[np.bool_]
) -> Array:
    """Log of measured over predicted by a fit that saw no network of the same architecture.

    NaN for the smallest and the largest architecture: a fit without them has to extrapolate,
    which the final one, made with them, never does inside the space.
    """
    index = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    member = np.array([index[group] for group in groups])
    size = np.array([x[member == k, : x.shape[1] // 2].sum(axis=1).mean() for k in index.values()])
    inner = set(range(len(index))) - ({int(size.argmin()), int(size.argmax())})
    scores = np.full(len(y), np.nan)
    for k in inner if len(index) > LEAST_ARCHITECTURES else index.values():
        out = member == k
        if not out.all():
            other = Calibration(quantizable).fit(x[~out], y[~out])
            scores[out] = np.log(y[out] / other.predict(x[out]))
    return scores
