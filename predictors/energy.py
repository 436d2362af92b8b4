"""Energy of a network from its ops, in the form that a profile names, if it names one."""

from __future__ import annotations

from hw_profiles.profile import DeviceProfile
from predictors.network_forms import NetworkForms, NetworkPredictor


class EnergyPredictor(NetworkPredictor):
    """Predicts the energy of whole networks, in mJ.

    It is that of one forward pass of a whole batch, all that the device draws meanwhile: idle power
    included. The upper bound allows for the error of the duration too.
    """


ENERGY_FORMS: NetworkForms[EnergyPredictor] = NetworkForms(
    "energy", ["predictors.energy_forms", "predictors.energy_network"]
)


def energy_predictor(profile: DeviceProfile) -> EnergyPredictor | None:
    """The energy predictor that a profile asks for; None where it has no energy model.

    Raises:
        ProfileError: if the energy model is of an unknown form, or has broken numbers.
    """
    return None if profile.energy is None else ENERGY_FORMS.make(profile, profile.energy)
