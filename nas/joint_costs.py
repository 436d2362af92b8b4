"""Costs on several targets at once: one cost model a target, over one joint genome."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from hw_profiles.profile import DeviceProfile
from nas.candidate import CandidateSpace
from nas.target_names import TARGET_FIGURES, at, split
from predictors.costs import CostModel
from predictors.energy import energy_predictor
from predictors.latency import latency_predictor
from search_spaces.choices import Genomes

Array = NDArray[np.float64]


def common_schemes(profiles: Mapping[str, DeviceProfile]) -> dict[str, tuple[str, ...]]:
    """The schemes that every target runs, in each one's own words and in one order.

    The first is each target's native type, whatever it is; the others are called alike.
    """
    first, *others = profiles.values()
    shared = [s for s in first.precisions[1:] if all(s in p.precisions[1:] for p in others)]
    return {label: (profile.precisions[0], *shared) for label, profile in profiles.items()}


class JointCosts:
    """Every cost of any candidate on each target.

    On one target the columns are those of its `CostModel`. On several those of the first stand
    under the same names, so that what looks at one target looks at that one; and the figures that
    differ from target to target stand under `column@target`, those of the first included.

    Args:
        candidates: the joint space, its schemes in the words of the first target.
        profiles: the targets, in order.
        schemes: of each target, in its own words, in the order of the candidates'.
        batch_size: examples a forward pass.

    Attributes:
        models: the cost model of each target.
        first: that of the first.
    """

    def __init__(
        self,
        candidates: CandidateSpace,
        profiles: Mapping[str, DeviceProfile],
        schemes: Mapping[str, tuple[str, ...]],
        batch_size: int,
    ) -> None:
        space = candidates.space
        self.models = {}
        for label, profile in profiles.items():
            calibrated = profile.calibrated_for(space.name, space.preset)
            self.models[label] = CostModel(
                space,
                candidates.choices,
                schemes[label],
                latency_predictor(calibrated),
                batch_size,
                native=profile.precisions[0],
                plans_buffers=profile.runtime.plans_buffers,
                weights_in_flash=profile.device.flash_bytes is not None,
                energy=energy_predictor(calibrated),
            )
        self.first = next(iter(self.models.values()))
        self._several = len(self.models) > 1

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the costs; those of energy only where a target has figures of it."""
        names = list(self.first.columns)
        if self._several:
            for label, model in self.models.items():
                names += [at(c, label) for c in model.columns if c in TARGET_FIGURES]
        return tuple(names)

    def costs(self, genomes: Genomes) -> dict[str, Array]:
        """Every cost of each genome, (n,) each."""
        of_first = self.first.costs(genomes)
        found = dict(of_first)
        if self._several:
            for label, model in self.models.items():
                costs = of_first if model is self.first else model.costs(genomes)
                found |= {at(c, label): costs[c] for c in model.columns if c in TARGET_FIGURES}
        return found

    def extreme(self, column: str, largest: bool) -> tuple[float, NDArray[np.int64]]:
        """The smallest (or largest) value of a column in the space, and a genome that has it."""
        name, label = split(column)
        model = self.first if label is None else self.models[label]
        return model.extreme(name, largest)

    def minimise(self, objective: Callable[[Genomes], Array]) -> tuple[float, NDArray[np.int64]]:
        """The least value of any function of genomes that descent finds, and its genome."""
        return self.first.minimise(objective)
