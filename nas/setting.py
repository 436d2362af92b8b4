"""The setting of a search: its joint space on its target, with budgets that are known to be met.

Needs no trained supernet: whether a budget can be met is known before any training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw_profiles.profile import DeviceProfile
from nas.budget import Budget, format_quantity, rounded_up
from nas.candidate import CandidateSpace
from nas.errors import BudgetError, UsageError, nearest
from nas.joint_costs import JointCosts, common_schemes
from nas.request import require_batch_size
from nas.target_names import TARGET_FIGURES, at, split
from search_spaces.choices import Genomes
from search_spaces.space import Architecture, SearchSpace

SAMPLE = 20_000
ELSEWHERE = "Choose another target, space or preset."


@dataclass(frozen=True)
class Reach:
    """How a budget binds: the space's range of the quantity, and the share that meets it."""

    budget: Budget
    smallest: float
    largest: float
    share: float

    @property
    def binds(self) -> bool:
        """Whether any candidate exceeds it."""
        return self.budget.limit < self.largest

    def __str__(self) -> str:
        name = self.budget.quantity
        low, high = format_quantity(name, self.smallest), format_quantity(name, self.largest)
        if not self.binds:
            return (
                f"budget {self.budget} does not bind: the whole space reaches from {low} to {high}"
            )
        share = f"{self.share:.1%}" if self.share >= 0.001 else "less than 0.1%"
        if self.share > 0.999:
            share = "nearly all"
        return f"budget {self.budget}: {share} of the space meets it; it reaches {low} to {high}"


class Setting:
    """A space on one target or several at a batch size, under budgets.

    Args:
        space: the architectures.
        targets: the profile of the target; of several, by what they are called, in order.
        batch_size: examples a forward pass.
        budgets: limits; relative ones are resolved against the space's largest.
        schemes: restricts what the targets offer, in the words of the first.

    Attributes:
        targets: profiles by what they are called, one or several.
        profile: of the first, in whose words and arithmetic candidates are.
        schemes: of each target in its own words, in the order of the candidates'.

    Raises:
        NotFoundError: if a scheme is not offered by every target.
        ProfileError: if a profile lacks what the space's ops need.
        UsageError: if the batch size is out of range, a profile was measured at others, or a
            budget limits what it has no figures of.
    """

    def __init__(
        self,
        space: SearchSpace,
        targets: DeviceProfile | Mapping[str, DeviceProfile],
        batch_size: int = 1,
        budgets: Sequence[Budget] = (),
        schemes: Sequence[str] | None = None,
    ) -> None:
        if isinstance(targets, DeviceProfile):
            targets = {targets.name: targets}
        self.targets = dict(targets)
        self.profile = next(iter(self.targets.values()))
        common = common_schemes(self.targets)
        offered = next(iter(common.values()))
        for scheme in schemes or ():
            if scheme not in offered:
                raise nearest(scheme, offered, f"scheme on {self._names}")
        require_batch_size(batch_size)
        for profile in self.targets.values():
            _require_measured_at(profile, batch_size)
        kept = [i for i, s in enumerate(offered) if schemes is None or s in schemes]
        self.schemes = {label: tuple(words[i] for i in kept) for label, words in common.items()}
        self.batch_size = batch_size
        self.candidates = CandidateSpace(space, tuple(offered[i] for i in kept))
        self.costs = JointCosts(self.candidates, self.targets, self.schemes, batch_size)
        self.require_figures(budget.column for budget in budgets)
        self._last: tuple[bytes, dict[str, NDArray[np.float64]]] = (b"", {})
        asked = [
            b.resolved(self.costs.extreme(b.column, largest=True)[0]) if b.relative else b
            for b in budgets
        ]
        self._held = {b.column: b for b in self._capacities()}
        self.budgets = tuple(with_capacities(asked, list(self._held.values())))

    @property
    def labels(self) -> tuple[str, ...]:
        """What several targets are called; nothing where there is one."""
        return tuple(self.targets) if len(self.targets) > 1 else ()

    @property
    def _names(self) -> str:
        return " and ".join(profile.name for profile in self.targets.values())

    def _capacities(self) -> list[Budget]:
        """What the devices hold, where some candidate needs more."""
        limits = []
        for label, profile in self.targets.items():
            device, target = profile.device, label if self.labels else None
            held = {"memory": device.memory_bytes, "weights": device.flash_bytes}
            limits += [
                Budget(name, float(size), target=target)
                for name, size in held.items()
                if size is not None
            ]
        return [b for b in limits if self.costs.extreme(b.column, largest=True)[0] > b.limit]

    @property
    def space(self) -> SearchSpace:
        """The architectures."""
        return self.candidates.space

    def require_figures(self, columns: Iterable[str]) -> None:
        """Refuse to limit or to search what the target does not predict.

        Args:
            columns: costs that are judged, or `quality`.

        Raises:
            UsageError: if the target has no energy figures, and one of the columns is of energy.
        """
        for column in columns:
            if column == "quality" or column in self.costs.columns:
                continue
            label = split(column)[1]
            profile = self.profile if label is None else self.targets[label]
            why = profile.power.why_not if profile.power is not None else ""
            raise UsageError(
                f"the target {profile.name} has no energy figures, so energy can be neither "
                f"limited nor an objective{': ' * bool(why)}{why}.",
                "Limit latency instead, or take a target that has them: `nas targets` says "
                "which, and `nas profile` measures them where a counter can be read.",
            )

    @cached_property
    def _sample(self) -> dict[str, NDArray[np.float64]]:
        genomes = self.candidates.choices.sample(SAMPLE, np.random.default_rng(0))
        return self.costs.costs(genomes)

    def costs_of(self, genomes: Genomes) -> dict[str, NDArray[np.float64]]:
        """Every cost of a population, (n,) each; asked again for the same one, not computed."""
        key = genomes.tobytes()
        if self._last[0] != key:
            self._last = (key, self.costs.costs(genomes))
        return self._last[1]

    def uniform_costs(
        self, architectures: Sequence[Architecture], scheme: str
    ) -> dict[str, NDArray[np.float64]]:
        """Every cost of architectures under one scheme everywhere, (n,) each.

        Raises:
            NotFoundError: if the scheme is not offered.
        """
        uniform = [self.candidates.uniform(arch, scheme) for arch in architectures]
        genomes = [self.candidates.encode(c.architecture, c.policy) for c in uniform]
        return self.costs.costs(np.array(genomes))

    def trial_fields(self, genome: NDArray[np.int64]) -> dict[str, Any]:
        """What a trial's record holds of its candidate: itself, in words, and every cost."""
        candidate = self.candidates.decode(genome)
        costs = {k: float(v[0]) for k, v in self.costs_of(genome[None, :]).items()}
        return {
            "genome": tuple(int(g) for g in genome),
            "architecture": dict(candidate.architecture),
            "policy": dict(candidate.policy),
            "architecture_short": self.space.describe(candidate.architecture),
            "policy_short": self.candidates.describe_policy(candidate.policy),
            "latency_ms": costs["latency_ms"],
            "latency_ms_upper": costs["latency_ms_upper"],
            "energy_mj": costs.get("energy_mj"),
            "energy_mj_upper": costs.get("energy_mj_upper"),
            "memory_bytes": round(costs["memory_bytes"]),
            "params": round(costs["params"]),
            "weight_bytes": round(costs["weight_bytes"]),
            "macs": round(costs["macs"]),
            "target_costs": self._target_costs(costs),
        }

    def _target_costs(self, costs: Mapping[str, float]) -> dict[str, dict[str, float]] | None:
        """The figures on each of several targets, bytes as whole numbers."""
        return {
            label: {
                name: round(value) if name.endswith("_bytes") else value
                for name in TARGET_FIGURES
                if (value := costs.get(at(name, label))) is not None
            }
            for label in self.labels
        } or None

    def violation(self, genomes: Genomes) -> NDArray[np.float64]:
        """Summed relative excess over the budgets, (n,); 0 where all are met."""
        costs = self.costs_of(genomes)
        excess = np.zeros(len(genomes))
        for budget in self.budgets:
            excess += np.maximum(costs[budget.column] / budget.limit - 1.0, 0.0)
        return excess

    def reach(self, budget: Budget) -> Reach:
        """How one budget binds; the share is that of uniformly drawn candidates."""
        return Reach(
            budget,
            self.costs.extreme(budget.column, largest=False)[0],
            self.costs.extreme(budget.column, largest=True)[0],
            float((self._sample[budget.column] <= budget.limit).mean()),
        )

    def require_reachable(self) -> list[Reach]:
        """How each budget binds, if all can be met at once.

        Raises:
            BudgetError: naming the nearest reachable value, or what the device holds.
        """
        reaches = [self.reach(budget) for budget in self.budgets]
        for reach in reaches:
            if reach.smallest > reach.budget.limit:
                raise self._out_of_reach(reach)
        if len(reaches) > 1:
            least, genome = self.costs.minimise(self.violation)
            if least > 0:
                costs = self.costs.costs(genome[None, :])
                has = ", ".join(
                    f"{at(b.quantity, b.target)} "
                    f"{format_quantity(b.quantity, float(costs[b.column][0]))}"
                    for b in self.budgets
                )
                loose = [str(b) for b in self.budgets if b != self._held.get(b.column)]
                raise BudgetError(
                    f"no candidate meets {' and '.join(map(str, self.budgets))} together; "
                    f"the nearest has {has}.",
                    f"Loosen {' or '.join(loose)}." if loose else ELSEWHERE,
                )
        return reaches

    def _out_of_reach(self, reach: Reach) -> BudgetError:
        """What to say of a budget that no candidate meets, or of a device that holds none."""
        budget, smallest = reach.budget, format_quantity(reach.budget.quantity, reach.smallest)
        none = f"no candidate of {self.space.name} ({self.space.preset})"
        where = self._names if budget.target is None else budget.target
        held = self._held.get(budget.column)
        if held is not None and reach.smallest > held.limit:
            return BudgetError(
                f"{none} fits on {where}: the smallest needs {smallest} of {budget.quantity}, "
                f"the device holds {format_quantity(held.quantity, held.limit)}.",
                ELSEWHERE,
            )
        enough = replace(budget, limit=rounded_up(budget.quantity, reach.smallest))
        return BudgetError(
            f"{none} on {where} meets {budget}: the least it can reach is {smallest}.",
            f"Ask for {enough} or more, or another space, preset or target.",
        )


def with_capacities(budgets: Sequence[Budget], capacities: Sequence[Budget]) -> list[Budget]:
    """Budgets with those of the device added, the smaller where both limit a quantity."""
    own = {b.column: b for b in capacities}
    limits = {b.column: min(b, own.get(b.column, b), key=lambda b: b.limit) for b in budgets}
    return list((limits | {c: b for c, b in own.items() if c not in limits}).values())


def _require_measured_at(profile: DeviceProfile, batch_size: int) -> None:
    timed = {network.batch_size for network in profile.networks}
    if timed and batch_size not in timed:
        raise UsageError(
            f"the profile {profile.name} was measured at batch size "
            f"{', '.join(map(str, sorted(timed)))}, not {batch_size}.",
            f"Measure with `nas profile --batch-size {batch_size}`.",
        )
