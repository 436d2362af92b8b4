"""What a sampler has been told, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution

from nas.engine.problem import Floats, Problem
from search_spaces.choices import ChoiceSet, Genomes

CONSTRAINT = "budgets"


def distributions(choices: ChoiceSet) -> dict[str, BaseDistribution]:
    """Every gene as an Optuna parameter: an index, ordered or not."""
    return {
        c.name: IntDistribution(0, len(c.values) - 1)
        if c.ordinal
        else CategoricalDistribution(tuple(range(len(c.values))))
        for c in choices.choices
    }


@dataclass(frozen=True)
class Told:
    """Finished trials of a study in order, then those under way.

    Attributes:
        genomes: canonical, (n, genes).
        values: objectives to be minimised, (n, k); NaN where the evaluation failed. Those under
            way have what their sampler predicted, NaN if it predicted nothing.
        violation: of the budgets, (n,).
        noise: standard error of a costly objective that was estimated on a part of the data, as
            an estimate of the one on all of them, (n,); 0 where all were used.
        n_pending: how many, the last ones, are under way.
    """

    genomes: Genomes
    values: Floats
    violation: Floats
    noise: Floats
    n_pending: int = 0

    def __len__(self) -> int:
        return len(self.genomes)

    @property
    def evaluated(self) -> NDArray[np.bool_]:
        """Evaluated, or believed, without failure, (n,)."""
        finite: NDArray[np.bool_] = np.all(np.isfinite(self.values), axis=1)
        return finite

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Evaluated, or believed, without failure and within every budget, (n,)."""
        return self.evaluated & (self.violation <= 0)

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Evaluated with a failure, (n,)."""
        failed = ~self.evaluated
        failed[len(self) - self.n_pending :] = False
        return failed


class Memory:
    """Finished trials in the order in which they were told, in arrays that grow.

    Args:
        problem: whose.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self._n = 0
        self._genomes = np.empty((64, len(problem.choices)), dtype=np.int64)
        self._values = np.empty((64, len(problem.objectives)))
        self._violation = np.empty(64)
        self._noise = np.empty(64)

    def add(self, genomes: Genomes, values: Floats, violation: Floats, noise: Floats) -> None:
        """Canonical genomes (n, genes), objectives in their own directions (n, k), (n,), (n,)."""
        end = self._n + len(genomes)
        while end > len(self._violation):
            self._genomes = np.concatenate([self._genomes, np.empty_like(self._genomes)])
            self._values = np.concatenate([self._values, np.empty_like(self._values)])
            self._violation = np.concatenate([self._violation, np.empty_like(self._violation)])
            self._noise = np.concatenate([self._noise, np.empty_like(self._noise)])
        self._genomes[self._n : end] = genomes
        self._values[self._n : end] = values * self.problem.signs
        self._violation[self._n : end] = violation
        self._noise[self._n : end] = noise
        self._n = end

    def told(self, pending: Sequence[NDArray[np.int64]], believed: Sequence[Floats]) -> Told:
        """All of it, and then what is under way: genomes (genes,) and objectives (k,) of each."""
        n = self._n
        genomes, values = self._genomes[:n], self._values[:n]
        violation, noise = self._violation[:n], self._noise[:n]
        if not pending:
            return Told(genomes, values, violation, noise)
        return Told(
            np.concatenate([genomes, np.stack(pending)]),
            np.concatenate([values, np.stack(believed) * self.problem.signs]),
            np.concatenate([violation, np.zeros(len(pending))]),
            np.concatenate([noise, np.zeros(len(pending))]),
            len(pending),
        )
