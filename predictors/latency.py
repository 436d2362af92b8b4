"""Time of a network from its ops, in the form that a profile names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import DeviceProfile, NetworkModel
from predictors.network_forms import AGAIN, NetworkForms, NetworkPredictor
from predictors.op_time import Array, OpTimes, Params, number


class LatencyPredictor(NetworkPredictor):
    """Predicts the latency of whole networks, in ms."""

    def op_ms(self, ops: Sequence[Op]) -> tuple[Array, Array]:
        """What each op adds to a network's latency and to its upper bound, (n_ops,), in ms.

        Raises:
            ProfileError: if the profile says nothing about one of the ops.
        """
        nothing = self.predict(np.zeros((1, self.n_features)))
        alone = self.predict(self.op_features(ops))
        mean, upper = (a - b for a, b in zip(alone, nothing, strict=True))
        return mean, upper


LATENCY_FORMS: NetworkForms[LatencyPredictor] = NetworkForms("network", ["predictors.network"])


def latency_predictor(profile: DeviceProfile) -> LatencyPredictor:
    """The latency predictor that a profile asks for.

    Raises:
        ProfileError: if the profile has no network model, one of an unknown form, or broken
            numbers in it.
    """
    if profile.network is None:
        raise ProfileError(f"the profile {profile.name!r} does not say how op times add up.", AGAIN)
    return LATENCY_FORMS.make(profile, profile.network)


@LATENCY_FORMS.register("op_sum")
class OpSumLatency(LatencyPredictor):
    """The sum of the predicted times of a network's kernels, one after another on one stream.

    Its upper bound adds up the bounds of the ops, as if all erred together: wider than it need be
    where errors are independent. It is calibrated on ops, not on whole networks.
    """

    n_features = 3  # predicted ms, upper ms, kernels

    def __init__(self, profile: DeviceProfile, model: NetworkModel) -> None:
        params: Params = model.params
        self.gap_ms = number(params, "gap_ms")
        if self.gap_ms < 0:
            raise ValueError("gap_ms must not be negative")
        self.coverage = model.coverage
        parts = [f"{said} ({', '.join(names)})" for said, names in _by_provenance(profile)]
        self.provenance = (
            f"sum of op times on {profile.device.name}: {'; '.join(parts)}; "
            "no whole network was timed"
        )
        self._times = OpTimes(profile)

    def op_features(self, ops: Sequence[Op]) -> Array:
        times = self._times.predict_ms(ops)
        return np.column_stack([times, times * self._times.upper_ratio(ops), np.ones(len(ops))])

    def predict(self, features: Array) -> tuple[Array, Array]:
        gaps = self.gap_ms * features[:, 2]
        return features[:, 0] + gaps, features[:, 1] + gaps


def _by_provenance(profile: DeviceProfile) -> list[tuple[str, list[str]]]:
    """Names of the op models of each provenance; only linear ops differ by precision."""
    names: dict[str, list[str]] = {"measured": [], "fitted": [], "derived": []}
    for model in profile.op_models:
        linear = model.kind == "linear"
        names[model.provenance].append(f"linear {model.precision}" if linear else model.kind)
    return [(said, kinds) for said, kinds in names.items() if kinds]
