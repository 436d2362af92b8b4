"""LINAS as published (arXiv:2205.10358, and its code as released in DyNAS-T).

50 random genomes are evaluated. From then on a predictor of each objective is fitted to all
trials (ridge or RBF support vectors, by 5-fold cross-validation on the mean absolute percentage
error, one-hot features); NSGA-II searches from a fresh population on the predictions; its last
population is evaluated next. No acquisition, no uncertainty: costs are learnt like accuracy.

Two things differ. What was evaluated already takes its place in the 50 as it does there, but is
answered from the study instead of being evaluated again. And there are budgets: random genomes
meet them where they can, and the search on predictions has them as its constraint.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from sklearn.base import RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.svm import SVR

from nas.engine.inner import genome_problem
from nas.engine.problem import Floats, Problem
from nas.engine.samplers import GenomeSampler, SamplerAt, derived_seed, register_sampler
from nas.engine.told import Told
from search_spaces.choices import Genomes

POPULATION = 50
GENERATIONS = 100
"""Of one search: 5,000 evaluations of the predictions; 5,000 to 20,000 as published."""
DRAWS = 2_048
"""Random genomes of which the first 50 that meet the budgets are taken."""
FOLDS = 5
ALPHAS = (0.1, 1.0, 10.0)
COSTS = (1.0, 10.0, 100.0)


@dataclass(frozen=True)
class _Round:
    number: int
    genomes: Genomes


class Linas(GenomeSampler):
    """Proposes 50 random genomes, then the last populations of searches on predictions.

    Args:
        problem: what is searched.
        seed: of the study.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._round: _Round | None = None

    def propose(self, told: Told) -> NDArray[np.int64]:
        """The next place of the round's 50."""
        number, place = divmod(len(told), POPULATION)
        if self._round is None or self._round.number != number:
            self._round = _Round(number, self._population(told, number))
        kind = "predicted" if number else "random"
        self.origin = {"kind": kind, "round": number}
        return np.asarray(self._round.genomes[place])

    def _population(self, told: Told, number: int) -> Genomes:
        """The genomes of a round (50, genes), by what was told before it."""
        rng = np.random.default_rng([self.seed, 10, number])
        before = slice(0, number * POPULATION)
        kept = told.complete[before]
        drawn = self.problem.choices.sample(DRAWS, rng)
        random = drawn[np.argsort(~self.problem.feasible(drawn), kind="stable")[:POPULATION]]
        if kept.sum() < 2 * FOLDS:
            return random
        genomes, values = told.genomes[before][kept], told.values[before][kept]
        code = self.problem.choices.one_hot(genomes)
        models = [_fitted(code, values[:, k]) for k in range(values.shape[1])]
        found = self._search(models, derived_seed(self.seed, 10, number))
        # Removal of duplicates may leave fewer than 50.
        return np.concatenate([found, random])[:POPULATION]

    def _search(self, models: list[RegressorMixin], seed: int) -> Genomes:
        """The last population of NSGA-II on predictions, (up to 50, genes)."""
        choices = self.problem.choices
        algorithm = NSGA2(
            pop_size=POPULATION,
            sampling=IntegerRandomSampling(),
            crossover=SBX(prob=0.9, eta=15, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=1.0, prob_var=0.02, eta=20, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        algorithm.setup(
            genome_problem(choices, len(models)),
            termination=("n_gen", GENERATIONS),
            seed=seed,
            verbose=False,
        )
        while algorithm.has_next():
            asked = algorithm.ask()
            if asked is None or not len(asked):
                break
            genomes = choices.canonical(asked.get("X").astype(np.int64))
            code = choices.one_hot(genomes)
            predicted: Floats = np.stack([model.predict(code) for model in models], axis=1)
            asked.set("F", predicted)
            asked.set("G", self.problem.violation(genomes)[:, None])
            algorithm.tell(infills=asked)
        return choices.canonical(algorithm.pop.get("X").astype(np.int64))


def _fitted(code: Floats, values: Floats) -> RegressorMixin:
    """The better of ridge and support vectors for one-hot codes (n, columns) and values (n,)."""
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    error = "neg_mean_absolute_percentage_error"
    tried = [
        GridSearchCV(model, grid, scoring=error, cv=folds).fit(code, values)
        for model, grid in (
            (Ridge(), {"alpha": list(ALPHAS)}),
            (SVR(kernel="rbf"), {"C": list(COSTS)}),
        )
    ]
    return max(tried, key=lambda search: float(search.best_score_)).best_estimator_


@register_sampler("linas", "LINAS as published: 50 at a time from a search on predictions")
def _linas(problem: Problem, seed: int) -> SamplerAt:
    sampler = Linas(problem, seed)
    return lambda told: sampler
