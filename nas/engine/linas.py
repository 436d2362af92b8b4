"""LINAS as published (arXiv:2205.10358), in the details of its code (DyNAS-T 1.6, Apache-2.0).

50 random genomes are evaluated. From then on a predictor of each objective is fitted to all that
was evaluated: the better of ridge and RBF support vectors, one-hot features, values scaled to two
digits before the point, by 5-fold cross-validation on the mean absolute percentage error, each
fold a stretch of the order of evaluation. NSGA-II, of three and more objectives U-NSGA-III,
searches from a fresh population on the predictions; its last population is evaluated next. No
acquisition, no uncertainty: costs are learnt like accuracy.

Three things differ. What was evaluated already takes its place in the 50 as it does there, but is
answered from the study instead of being evaluated again. There are budgets: random genomes meet
them where they can, and the search on predictions has them as its constraint. And strengths of
regularization are tried in 9 geometric steps over the same range, not in 100 even ones, which
takes a tenth of the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.base.genetic import GeneticAlgorithm
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.algorithms.moo.unsga3 import UNSGA3, comp_by_rank_and_ref_line_dist
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.util.ref_dirs import get_reference_directions
from sklearn.base import RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.svm import SVR

from nas.engine.inner import genome_problem, lots_by_seed
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
ALPHAS: Floats = np.geomspace(0.1, 10.0, 9)
COSTS: Floats = np.geomspace(1.0, 100.0, 9)
DIRECTIONS = 20
"""Of U-NSGA-III."""


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
        # What is answered from the study stands in it again, which teaches nothing new.
        first = np.sort(np.unique(told.genomes[before][kept], axis=0, return_index=True)[1])
        if len(first) < 2 * FOLDS:
            return random
        genomes, values = told.genomes[before][kept][first], told.values[before][kept][first]
        code = self.problem.choices.one_hot(genomes)
        models = [_fitted(code, values[:, k]) for k in range(values.shape[1])]
        found = self._search(models, derived_seed(self.seed, 10, number))
        # Removal of duplicates may leave fewer than 50.
        return np.concatenate([found, random])[:POPULATION]

    def _search(self, models: list[RegressorMixin], seed: int) -> Genomes:
        """The last population of a search on predictions, (up to 50, genes)."""
        choices = self.problem.choices
        algorithm = _algorithm(len(models))
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


def _algorithm(n_objectives: int) -> GeneticAlgorithm:
    """The search on predictions. Of its children 2 % mutate, in one gene on the average."""
    several = n_objectives > 2
    cross = {"prob": 1.0, "eta": 30} if several else {"prob": 0.9, "eta": 15}
    operators = {
        "sampling": IntegerRandomSampling(),
        "crossover": SBX(**cross, vtype=float, repair=RoundingRepair()),
        "mutation": PM(prob=0.02, eta=20, vtype=float, repair=RoundingRepair()),
        "eliminate_duplicates": True,
    }
    if not several:
        return NSGA2(pop_size=POPULATION, **operators)
    selection = lots_by_seed(comp_by_rank_and_ref_line_dist)
    toward = _directions(n_objectives)
    return UNSGA3(toward, pop_size=POPULATION, selection=selection, **operators)


@cache
def _directions(n_objectives: int) -> Floats:
    """Reference directions far from one another (Blank et al. 2021), (directions, objectives)."""
    found: Floats = get_reference_directions("energy", n_objectives, DIRECTIONS, seed=0)
    return found


def _fitted(code: Floats, values: Floats) -> RegressorMixin:
    """The better of ridge and support vectors for one-hot codes (n, columns) and values (n,).

    It predicts in a unit of its own, a power of ten of the values': a search only compares.
    """
    largest = np.abs(values).max()
    unit = 10.0 ** (np.floor(np.log10(largest)) - 1) if largest > 0 else 1.0
    error = "neg_mean_absolute_percentage_error"
    tried = [
        GridSearchCV(model, grid, scoring=error, cv=KFold(FOLDS)).fit(code, values / unit)
        for model, grid in (
            (Ridge(), {"alpha": ALPHAS}),
            (SVR(kernel="rbf", gamma="auto", epsilon=0.0, max_iter=1_000_000), {"C": COSTS}),
        )
    ]
    return max(tried, key=lambda search: float(search.best_score_)).best_estimator_


@register_sampler("linas", "LINAS as published: 50 at a time from a search on predictions")
def _linas(problem: Problem, seed: int) -> SamplerAt:
    sampler = Linas(problem, seed)
    return lambda told: sampler
