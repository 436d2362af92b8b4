"""Time of a network from its ops: additive features, and a predictor over them.

Features of a network are the sum of those of its ops, so that a population is predicted by one
matrix product over the distinct layers it is made of.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np

from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import DeviceProfile, NetworkModel
from predictors.op_time import Array, OpTimes, Params, number


class LatencyPredictor(ABC):
    """Predicts the latency of whole networks on one device in one runtime.

    Attributes:
        n_features: features of an op, and of a network.
        coverage: stated share of networks whose latency is at most the upper value.
        provenance: where the figures come from, one readable line.
    """

    n_features: int
    coverage: float
    provenance: str

    @abstractmethod
    def op_features(self, ops: Sequence[Op]) -> Array:
        """Additive features, shape (n_ops, n_features).

        Raises:
            ProfileError: if the profile says nothing about one of the ops.
        """

    @abstractmethod
    def predict(self, features: Array) -> tuple[Array, Array]:
        """Latency and its upper bound in ms, each (n,), from summed features (n, n_features)."""


Factory = Callable[[DeviceProfile, NetworkModel], LatencyPredictor]
NETWORK_FORMS: dict[str, Factory] = {}
# Modules that register forms, imported when a profile first asks for one.
NETWORK_FORM_MODULES: list[str] = ["predictors.network"]


def register_network_form(name: str) -> Callable[[Factory], Factory]:
    """Decorator: make a predictor known under the `NetworkModel.form` that profiles use."""

    def register(factory: Factory) -> Factory:
        NETWORK_FORMS[name] = factory
        return factory

    return register


def latency_predictor(profile: DeviceProfile) -> LatencyPredictor:
    """The latency predictor that a profile asks for.

    Raises:
        ProfileError: if the profile has no network model, one of an unknown form, or broken
            numbers in it.
    """
    again = "Make it anew with `nas profile`, or name a device from `nas targets`."
    model = profile.network
    if model is None:
        raise ProfileError(f"the profile {profile.name!r} does not say how op times add up.", again)
    if model.form not in NETWORK_FORMS:
        for module in NETWORK_FORM_MODULES:
            importlib.import_module(module)
    if model.form not in NETWORK_FORMS:
        known = ", ".join(sorted(NETWORK_FORMS))
        raise ProfileError(f"unknown network form {model.form!r}; known: {known}.", again)
    try:
        return NETWORK_FORMS[model.form](profile, model)
    except (KeyError, TypeError) as error:
        raise ProfileError(
            f"the profile {profile.name!r} has broken numbers in its network model ({error}).",
            again,
        ) from None


@register_network_form("op_sum")
class OpSumLatency(LatencyPredictor):
    """The sum of the predicted times of a network's kernels, one after another on one stream.

    Its upper bound adds up the bounds of the ops, as if all erred together: wider than it need be
    where errors are independent. It is calibrated on ops, not on whole networks.
    """

    n_features = 3  # predicted ms, upper ms, kernels

    def __init__(self, profile: DeviceProfile, model: NetworkModel) -> None:
        params: Params = model.params
        self.gap_ms = number(params, "gap_ms")
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
