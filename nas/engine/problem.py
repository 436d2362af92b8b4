"""What is searched: a joint genome, objectives, and what is known of any genome for free."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.choices import ChoiceSet, Genomes

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Objective:
    """One objective.

    Args:
        name: such as `accuracy` or `latency_ms`.
        maximise: whether larger is better.
        known: whether a cost predictor gives it for any genome, free and exact.
    """

    name: str
    maximise: bool
    known: bool


@dataclass(frozen=True)
class Problem:
    """A search problem over genomes (n, genes).

    Args:
        choices: the joint genome, architecture and policy.
        objectives: one or more, in order.
        costs: values of the known objectives, name -> (n,).
        violation: relative excess over the budgets on known quantities, summed, (n,);
            at most 0 exactly where every budget is met.
        features: further numbers for the accuracy predictor (log costs and the like), (n, f).
        reference: objective name -> worst value that still counts for the hypervolume; what is
            not named is set from the first design.
        listed: the only genomes that exist, (n, genes), where the space is a list of some.
    """

    choices: ChoiceSet
    objectives: tuple[Objective, ...]
    costs: Callable[[Genomes], dict[str, Floats]]
    violation: Callable[[Genomes], Floats]
    features: Callable[[Genomes], Floats]
    reference: Mapping[str, float] | None = None
    listed: Genomes | None = None

    @property
    def known(self) -> tuple[str, ...]:
        """Names of the objectives that need no evaluation."""
        return tuple(o.name for o in self.objectives if o.known)

    @property
    def costly(self) -> tuple[Objective, ...]:
        """The objectives that an evaluation returns."""
        return tuple(o for o in self.objectives if not o.known)

    @property
    def signs(self) -> Floats:
        """(objectives,): value * sign is to be minimised."""
        return np.array([-1.0 if o.maximise else 1.0 for o in self.objectives])

    def feasible(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Which genomes meet every budget on known quantities, (n,)."""
        return self.violation(genomes) <= 0

    def rows(self, genomes: Genomes) -> Floats:
        """Genes and features side by side, as the accuracy predictor takes them."""
        return np.concatenate([genomes.astype(np.float64), self.features(genomes)], axis=1)

    def known_costs(self, genomes: Genomes) -> Floats:
        """Known objectives, to be minimised, (n, known)."""
        if not self.known:
            return np.empty((len(genomes), 0))
        values = self.costs(genomes)
        return np.stack(
            [values[o.name] * (-1 if o.maximise else 1) for o in self.objectives if o.known],
            axis=1,
        )
