"""What an Optuna study has been told, as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

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
    """Finished trials of a study, in order.

    Attributes:
        genomes: canonical, (n, genes).
        values: objectives to be minimised, NaN where the evaluation failed, (n, k).
        violation: of the budgets, (n,).
    """

    genomes: Genomes
    values: Floats
    violation: Floats

    @classmethod
    def of(cls, study: Study, problem: Problem) -> Told:
        """The finished trials of a study of this problem."""
        trials = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        names = problem.choices.names
        raw = np.array([[t.params[n] for n in names] for t in trials], dtype=np.int64)
        failed = [np.nan] * len(problem.objectives)
        values = [t.values if t.state == TrialState.COMPLETE else failed for t in trials]
        return cls(
            problem.choices.canonical(raw.reshape(len(trials), len(names))),
            np.array(values, dtype=np.float64).reshape(len(trials), len(failed)) * problem.signs,
            np.array([t.constraints.get(CONSTRAINT, 0.0) for t in trials], dtype=np.float64),
        )

    def __len__(self) -> int:
        return len(self.genomes)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Evaluated without failure and within every budget, (n,)."""
        return np.isfinite(self.values).all(axis=1) & (self.violation <= 0)
