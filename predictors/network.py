"""Whole networks from ops that were measured one by one, calibrated on measured networks.

Latency is summed so, and what a meter read (`predictors.energy_network`): one law for both. A
network's time is a constant, plus for each class of ops (kind and precision) its share of the
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
from scipy.optimize import lsq_linear

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
from predictors.latency import LATENCY_FORMS, LatencyPredictor
from predictors.measured_ops import LATENCY, Features, Quantity
from predictors.metrics import coverage, kendall_tau, mape, median_error
from predictors.network_forms import NetworkPredictor
from predictors.op_time import Array, Params, number, numbers

FORM = "measured_sum"
COVERAGE = 0.9
#: Networks without which there is no fit.
FEWEST_NETWORKS = 10
#: Architectures that a fit must have before the two extreme ones are not judged.
LEAST_ARCHITECTURES = 4
#: Strength of the pull on shares (per class), on costs a call and on that of a switch, in relative
#: error.
PULL_SHARE, PULL_CALL, PULL_SWITCH = 0.05, 0.02, 0.02
REWEIGHTINGS = 4
#: Networks whose processes differ by more than this times the median set no bound.
STEADY = 1.5
#: Weight of a network whose timing stayed unstable, in the fit of the sum.
UNSTABLE_WEIGHT = 0.3


@dataclass
class Calibration:
    """Fitted numbers of the sum: constant + shares . values + calls . counts + switch n.

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
        """Fit to relative errors of networks (n, 2 classes) as measured (n,); weights (n,)."""
        n = features.shape[1] // 2
        times, counts = features[:, :n], features[:, n:]
        typical = float(np.median(times.sum(1) / np.maximum(counts.sum(1), 1)))  # of a call
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
        """The sum, (n,), in the unit of what was measured."""
        total: Array = features @ np.concatenate([self.shares, self.calls])
        total += self.constant + self.switch * self._switches(features)
        return np.maximum(total, 1e-6)

    def _switches(self, features: Array) -> Array:
        counts = features[:, features.shape[1] // 2 :][:, self.quantizable]
        layers = counts.sum(axis=1)
        return np.asarray(layers - (counts**2).sum(axis=1) / np.maximum(layers, 1.0))

    def to_params(self, unit: str) -> Params:
        """The fitted numbers, for a profile."""
        return {
            f"constant_{unit}": self.constant,
            f"switch_{unit}": self.switch,
            "shares": self.shares.tolist(),
            f"calls_{unit}": self.calls.tolist(),
        }

    @classmethod
    def from_params(cls, params: Params, unit: str, quantizable: NDArray[np.bool_]) -> Calibration:
        """Rebuild what `to_params` gave.

        Raises:
            KeyError, TypeError, ValueError: if the numbers are not those of these classes.
        """
        shares, calls = numbers(params, "shares"), numbers(params, f"calls_{unit}")
        if not len(shares) == len(calls) == len(quantizable):
            raise ValueError(f"there must be {len(quantizable)} shares and costs a call")
        constant, switch = number(params, f"constant_{unit}"), number(params, f"switch_{unit}")
        return cls(quantizable, constant, switch, shares, calls)


class MeasuredSum(NetworkPredictor):
    """The calibrated sum of what was measured of a profile's ops.

    Args:
        profile: the target.
        model: fitted by `fit_sum`.
        ops: of the profile, that were measured so.
        quantity: what was measured.
    """

    def __init__(
        self,
        profile: DeviceProfile,
        model: NetworkModel,
        ops: Sequence[OpTiming],
        quantity: Quantity,
    ) -> None:
        self._features = Features(ops, quantity)
        self.n_features = 2 * self._features.n_classes
        quantizable = self._features.ops.quantizable
        self._sum = Calibration.from_params(model.params, quantity.unit, quantizable)
        self._upper_ratio = number(model.params, "upper_ratio")
        if not self._upper_ratio >= 1:
            raise ValueError("upper_ratio must be at least 1")
        self.coverage = model.coverage
        runtime = profile.runtime
        self.provenance = (
            f"measured on {profile.device.name}, {runtime.name} {runtime.version}, "
            f"{runtime.threads} thread{'s' if runtime.threads > 1 else ''}: {model.source}"
        )

    def op_features(self, ops: Sequence[Op]) -> Array:
        return self._features(ops)

    def predict(self, features: Array) -> tuple[Array, Array]:
        mean = self._sum.predict(features)
        return mean, mean * self._upper_ratio


@LATENCY_FORMS.register(FORM)
class MeasuredSumLatency(MeasuredSum, LatencyPredictor):
    """The calibrated sum of measured op times of a profile."""

    def __init__(self, profile: DeviceProfile, model: NetworkModel) -> None:
        super().__init__(profile, model, profile.ops, LATENCY)


def fit_network_model(
    ops: Sequence[OpTiming],
    networks: Sequence[NetworkTiming],
    drift: Sequence[float] = (),
    coverage_wanted: float = COVERAGE,
) -> NetworkModel:
    """Fit the sum on timed networks, with its bound and its error on those held out; see `fit_sum`.

    Raises:
        ProfileError: if there are too few networks.
    """
    return fit_sum(Features(ops, LATENCY), networks, drift, coverage_wanted)


def fit_sum(
    features: Features,
    networks: Sequence[NetworkTiming],
    drift: Sequence[float] = (),
    coverage_wanted: float = COVERAGE,
) -> NetworkModel:
    """Fit the sum on measured networks, with its bound and its error on those held out.

    Args:
        features: of ops that were measured one by one.
        networks: measured whole; those marked `held_out` only state the error.
        drift: log ratios of a reading in other processes to the one that is fitted, as further
            uncertainty of a network that is measured there.
        coverage_wanted: of the upper bound; what few networks can promise is less.

    Raises:
        ProfileError: if there are too few networks.
    """
    fitted, kept_out = _parts(features, networks)
    if len(fitted.networks) < FEWEST_NETWORKS:
        raise _too_few(fitted.networks, f"{FEWEST_NETWORKS} are needed")
    return _fitted_sum(fitted, kept_out, fitted.held_out_scores(), drift, coverage_wanted)


@dataclass(frozen=True)
class _Rows:
    """Measured networks as a fit takes them, a row each.

    Attributes:
        x: features, (n, 2 classes).
        y: what was measured, (n,).
        unstable: read while the machine was slow, (n,).
    """

    features: Features
    networks: Sequence[NetworkTiming]
    x: Array
    y: Array
    unstable: NDArray[np.bool_]

    @classmethod
    def of(cls, features: Features, networks: Sequence[NetworkTiming]) -> _Rows:
        quantity = features.quantity
        return cls(
            features,
            networks,
            np.array([features(network.workload()).sum(axis=0) for network in networks]),
            np.array([quantity.value(network) for network in networks]),
            np.array([quantity.unstable(network) for network in networks], dtype=bool),
        )

    def held_out_scores(self) -> Array:
        """Log of measured over predicted by fits that saw no network of the same architecture.

        Those whose readings scatter say more of the machine and are left out.
        """
        spread = np.array([self.features.quantity.spread(n) for n in self.networks])
        calm = ~self.unstable | self.unstable.all()
        steady = (spread <= STEADY * np.median(spread)) & calm
        groups = [_architecture(n) for n in self.networks]
        scores = _cross_scores(self.x, self.y, groups, self.features.ops.quantizable)[steady]
        return np.asarray(scores[~np.isnan(scores)])


def _parts(features: Features, networks: Sequence[NetworkTiming]) -> tuple[_Rows, _Rows]:
    """Networks to fit, and those that only state the error."""
    fitted = _Rows.of(features, [n for n in networks if not n.held_out])
    return fitted, _Rows.of(features, [n for n in networks if n.held_out])


def _fitted_sum(
    fitted: _Rows, kept_out: _Rows, scores: Array, drift: Sequence[float], coverage_wanted: float
) -> NetworkModel:
    """The sum fitted to some networks, its bound set by those scores, its error on others."""
    features = fitted.features
    if not len(scores):
        raise _too_few(fitted.networks, "none was predicted by a fit that had not seen it")
    # few networks promise less: their largest error is not exceeded by one in so many further
    promised = min(coverage_wanted, len(scores) / (len(scores) + 1))
    upper = conformal_quantile(scores, promised, drift)
    ratio = float(np.exp(max(upper, 0.0)))
    trust = np.where(fitted.unstable, UNSTABLE_WEIGHT, 1.0)
    model = Calibration(features.ops.quantizable).fit(fitted.x, fitted.y, trust)
    error = None
    if kept_out.networks:
        predicted = model.predict(kept_out.x)
        error = FitError(
            mape=mape(kept_out.y, predicted),
            median_error=median_error(kept_out.y, predicted),
            kendall_tau=kendall_tau(kept_out.y, predicted),
            coverage=coverage(kept_out.y, predicted * ratio),
            rows=len(kept_out.y),
            kept_out="networks whose architectures were not in the fit",
        )
    quantity = features.quantity
    return NetworkModel(
        form=FORM,
        params={**model.to_params(quantity.unit), "upper_ratio": ratio},
        provenance="measured",
        source=f"{features.n_ops} ops and {len(fitted.networks)} networks {quantity.measured} on "
        "this device",
        coverage=round(promised, 4),
        error=error,
    )


def _too_few(networks: Sequence[NetworkTiming], why: str) -> ProfileError:
    return ProfileError(
        f"{len(networks)} networks are too few to calibrate on ({why}).",
        "Give `nas profile` more time, or try when the machine is less busy.",
    )


def fit_space_models(
    ops: Sequence[OpTiming], networks: Sequence[NetworkTiming], drift: Sequence[float] = ()
) -> dict[str, NetworkModel]:
    """`fit_network_model` for each of several spaces, from its own networks alone.

    What is added to the sum of ops differs between families by some percent: how many ops a runtime
    fuses, how many stay in its caches. Each has few architectures, too few to say how far off a
    further one may be: the bound is that of all spaces' errors together. Spaces with too few
    networks are left to the common model.

    Returns:
        `space:preset` -> model; empty where all networks are of one space.
    """
    members: dict[str, list[NetworkTiming]] = {}
    for network in networks:
        members.setdefault(f"{network.space}:{network.preset}", []).append(network)
    if len(members) < 2:
        return {}
    features = Features(ops, LATENCY)
    parts = {name: _parts(features, own) for name, own in sorted(members.items())}
    enough = {
        name: (fitted, kept_out)
        for name, (fitted, kept_out) in parts.items()
        if len(fitted.networks) >= FEWEST_NETWORKS
    }
    if not enough:
        return {}
    pooled = np.concatenate([fitted.held_out_scores() for fitted, _ in enough.values()])
    return {
        name: _fitted_sum(fitted, kept_out, pooled, drift, COVERAGE)
        for name, (fitted, kept_out) in enough.items()
    }


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
