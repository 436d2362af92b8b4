"""What an Optuna study has been told, as arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import TrialState

from nas.engine.problem import Floats, Problem
from search_spaces.choices import ChoiceSet, Genomes

CONSTRAINT = "budgets"
BELIEVED = "believed"
"""Of a running trial: its objectives as predicted, NaN where nothing predicts one."""


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
        n_pending: how many, the last ones, are under way.
    """

    genomes: Genomes
    values: Floats
    violation: Floats
    n_pending: int = field(default=0)

    @classmethod
    def of(cls, study: Study, problem: Problem) -> Told:
        """What a study of this problem was told, and what it was asked for and not told yet."""
        all_ = study.get_trials(deepcopy=False)
        trials = [t for t in all_ if t.state.is_finished()]
        pending = [t for t in all_ if not t.state.is_finished() and BELIEVED in t.user_attrs]
        names = problem.choices.names
        raw = np.array([[t.params[n] for n in names] for t in trials + pending], dtype=np.int64)
        failed = [np.nan] * len(problem.objectives)
        values = [t.values if t.state == TrialState.COMPLETE else failed for t in trials]
        values += [t.user_attrs[BELIEVED] for t in pending]
        n = len(values)
        return cls(
            problem.choices.canonical(raw.reshape(n, len(names))),
            np.array(values, dtype=np.float64).reshape(n, len(failed)) * problem.signs,
            np.array(
                [t.constraints.get(CONSTRAINT, 0.0) for t in trials] + [0.0] * len(pending),
                dtype=np.float64,
            ),
            len(pending),
        )

    def __len__(self) -> int:
        return len(self.genomes)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Evaluated, or believed, without failure and within every budget, (n,)."""
        return np.isfinite(self.values).all(axis=1) & (self.violation <= 0)
