"""Two targets side by side: what the same networks take on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import search_spaces
from hw_profiles.profile import DeviceProfile
from nas.errors import NasError, UsageError
from nas.setting import Setting
from nas.targets import resolve_target
from predictors.metrics import kendall_tau
from search_spaces.choices import Value
from search_spaces.space import SearchSpace

Floats = NDArray[np.float64]
#: Random networks of a space, beside its smallest and largest.
NETWORKS = 60


@dataclass(frozen=True)
class SpaceCompared:
    """Networks of one space on both targets, unquantized in each target's own precision.

    Attributes:
        first, second: predicted latency and its upper bound in ms, (networks, 2).
    """

    space: str
    first: Floats
    second: Floats

    def row(self) -> dict[str, Any]:
        """Ratios of the second target's latency to the first's, and how alike they order."""
        ratio = self.second[:, 0] / self.first[:, 0]
        return {
            "space": self.space,
            "networks": len(ratio),
            "ratio": round(float(np.median(ratio)), 3),
            "lowest": round(float(ratio.min()), 3),
            "highest": round(float(ratio.max()), 3),
            "same order (Kendall tau)": round(kendall_tau(self.first[:, 0], self.second[:, 0]), 3),
        }


@dataclass(frozen=True)
class Compared:
    """Two targets, the spaces that both know, and why others are left out."""

    names: tuple[str, str]
    spaces: tuple[SpaceCompared, ...]
    left_out: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """One row a space."""
        return [space.row() for space in self.spaces]


def compare_targets(
    first: str, second: str, spaces: Sequence[str] = (), batch_size: int = 1, seed: int = 0
) -> Compared:
    """Predict the same networks on two targets.

    Args:
        first, second: names or profile files.
        spaces: `family` or `family:preset`; the default preset of every family unless given.
        batch_size: examples a forward pass.
        seed: of the networks drawn.

    Raises:
        NotFoundError, ProfileError: if there is no such target, file or space.
        UsageError: if no space is known to both.
    """
    profiles = [resolve_target(name, batch_size) for name in (first, second)]
    compared, left_out = [], []
    for name in spaces or search_spaces.names():
        family, _, preset = name.partition(":")
        space = search_spaces.get(family, preset or None)
        genomes = space.choices.sample(NETWORKS, np.random.default_rng(seed))
        drawn = [space.choices.decode(genome) for genome in genomes]
        networks = [space.smallest(), *drawn, space.largest()]
        try:
            on_each = [_latencies(space, profile, batch_size, networks) for profile in profiles]
        except NasError as error:
            if spaces:
                raise
            left_out.append(f"{space.name}: {error.message}")
            continue
        compared.append(SpaceCompared(f"{space.name}:{space.preset}", *on_each))
    if not compared:
        raise UsageError(
            f"{first} and {second} have no space in common ({left_out[0]})",
            "Measure one of them anew with `nas profile --space`.",
        )
    return Compared((first, second), tuple(compared), tuple(left_out))


def _latencies(
    space: SearchSpace,
    profile: DeviceProfile,
    batch_size: int,
    networks: Sequence[dict[str, Value]],
) -> Floats:
    """Predicted latency and upper bound of unquantized networks, (networks, 2), in ms."""
    setting = Setting(space, profile, batch_size, schemes=profile.precisions[:1])
    costs = setting.uniform_costs(networks, profile.precisions[0])
    return np.stack([costs["latency_ms"], costs["latency_ms_upper"]], axis=1)
