"""Energy of networks as their ops were metered one by one, calibrated on metered networks.

The law is that of the measured latency (`predictors.network`). A reading holds the duration and its
error; what other processes differ by is added to the bound.
"""

from __future__ import annotations

from collections.abc import Sequence

from hw_profiles.errors import ProfileError
from hw_profiles.profile import DeviceProfile, Energy, NetworkModel, NetworkTiming, OpTiming
from predictors.energy import ENERGY_FORMS, EnergyPredictor
from predictors.measured_ops import Features, Quantity
from predictors.network import COVERAGE, FORM, MeasuredSum, fit_sum


def _reading(metered: OpTiming | NetworkTiming) -> Energy:
    assert metered.energy is not None
    return metered.energy


ENERGY = Quantity(
    "mj",
    lambda metered: _reading(metered).energy_mj,
    lambda metered: _reading(metered).spread,
    lambda metered: False,
    "metered",
)


@ENERGY_FORMS.register(FORM)
class MeasuredSumEnergy(MeasuredSum, EnergyPredictor):
    """The calibrated sum of the metered energy of a profile's ops."""

    def __init__(self, profile: DeviceProfile, model: NetworkModel) -> None:
        ops = [op for op in profile.ops if op.energy is not None]
        super().__init__(profile, model, ops, ENERGY)


def fit_energy_model(
    ops: Sequence[OpTiming],
    networks: Sequence[NetworkTiming],
    drift: Sequence[float] = (),
    coverage_wanted: float = COVERAGE,
) -> NetworkModel:
    """Fit the sum on metered networks; see `predictors.network.fit_sum`.

    Args:
        ops: timed one by one; those that were metered are used, at least one of each class.
        networks: timed whole; those that were metered are used.
        drift: log ratios of the time of a call in other processes to that in the metering one.
        coverage_wanted: of the upper bound.

    Raises:
        ProfileError: if too little was metered.
    """
    metered = [op for op in ops if op.energy is not None]
    classes = {(op.kind, op.precision) for op in ops}
    missing = classes - {(op.kind, op.precision) for op in metered}
    if missing:
        raise ProfileError(
            f"{len(missing)} of {len(classes)} kinds of op were not metered.",
            "Give `nas profile` more time.",
        )
    whole = [network for network in networks if network.energy is not None]
    return fit_sum(Features(metered, ENERGY), whole, drift, coverage_wanted)
