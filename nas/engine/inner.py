"""The inner loop: pymoo's NSGA-II over genomes whose objectives cost nothing.

Deb et al. 2002, with operators for genes that are indices: uniform crossover, and a mutation that
steps an ordinal gene to a neighbour or draws a gene anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.ux import UX
from pymoo.operators.selection.tournament import TournamentSelection

from search_spaces.choices import ChoiceSet, Genomes

Floats = NDArray[np.float64]
Score = Callable[[Genomes], tuple[Floats, Floats]]
"""Genomes (n, genes) -> objectives to minimise (n, k), violation (n,)."""

Pairs = NDArray[np.int64]
Comparison = Callable[..., Pairs]
"""A population and pairs of it (n, 2) -> winners (n, 1), as pymoo's tournaments take it."""

POPULATION = 100
GENERATIONS = 25
MUTATIONS = 1.5
"""Expected number of mutated genes of a child."""


@dataclass(frozen=True)
class Scored:
    """Genomes (n, genes) with objectives to be minimised (n, k) and violation (n,)."""

    genomes: Genomes
    objectives: Floats
    violation: Floats


class ChoiceMutation(Mutation):  # type: ignore[misc]
    """Each gene, rarely, to a neighbouring value if ordinal, or to any other value."""

    def __init__(self, choices: ChoiceSet) -> None:
        super().__init__()
        self.sizes = choices.sizes
        self.ordinal = np.array([c.ordinal for c in choices.choices])

    def _do(
        self, problem: PymooProblem, X: Genomes, random_state: np.random.Generator, **_: object
    ) -> Genomes:
        hit = random_state.random(X.shape) < MUTATIONS / X.shape[1]
        anew = (X + random_state.integers(1, np.maximum(self.sizes, 2), X.shape)) % self.sizes
        step = np.clip(X + random_state.choice([-1, 1], X.shape), 0, self.sizes - 1)
        near = self.ordinal & (random_state.random(X.shape) < 0.5)
        return np.where(hit, np.where(near, step, anew), X)


class Canonical(Repair):  # type: ignore[misc]
    """Inactive genes to 0, so that pymoo's removal of duplicates sees candidates, not genomes."""

    def __init__(self, choices: ChoiceSet) -> None:
        super().__init__()
        self.choices = choices

    def _do(self, problem: PymooProblem, X: NDArray[np.generic], **_: object) -> Genomes:
        return self.choices.canonical(np.asarray(X).astype(np.int64))


def genome_problem(choices: ChoiceSet, n_objectives: int) -> PymooProblem:
    """Genomes with one constraint as pymoo sees them, for a search that is told its values."""
    return PymooProblem(
        n_var=len(choices),
        n_obj=n_objectives,
        n_ieq_constr=1,
        xl=np.zeros(len(choices), dtype=np.int64),
        xu=choices.sizes - 1,
        vtype=int,
    )


def genome_operators(choices: ChoiceSet, start: Genomes) -> dict[str, Any]:
    """What any of pymoo's genetic algorithms needs to search genomes, from a first population."""
    return {
        "sampling": start,
        "crossover": UX(),
        "mutation": ChoiceMutation(choices),
        "repair": Canonical(choices),
        "eliminate_duplicates": True,
    }


def lots_by_seed(comparison: Comparison) -> TournamentSelection:
    """Tournaments of two in which every lot is drawn by the algorithm's own generator.

    Between two that violate alike, pymoo 0.6.2 draws it by an unseeded one in NSGA-III and
    U-NSGA-III.
    """

    def compared(
        pop: Population, P: Pairs, random_state: np.random.Generator, **more: Any
    ) -> Pairs:
        winners = comparison(pop, P, random_state=random_state, **more)
        excess = pop.get("CV")[P, 0]
        alike = np.flatnonzero((excess[:, 0] > 0) & (excess[:, 0] == excess[:, 1]))
        if len(alike):
            winners[alike, 0] = P[alike, random_state.integers(2, size=len(alike))]
        return winners

    return TournamentSelection(func_comp=compared)


def nsga2(choices: ChoiceSet, population: int, start: Genomes) -> NSGA2:
    """NSGA-II over genomes, from a first population (m, genes), m at most `population`."""
    return NSGA2(pop_size=population, **genome_operators(choices, start))


def search(
    choices: ChoiceSet,
    score: Score,
    n_objectives: int,
    *,
    start: Genomes,
    seed: int,
    population: int = POPULATION,
    generations: int = GENERATIONS,
) -> Scored:
    """Every distinct genome that NSGA-II asked for, with its score, in the order asked.

    Args:
        choices: of the genome.
        score: for many genomes at once.
        n_objectives: columns of the score.
        start: canonical genomes to begin with; filled up with random ones.
        seed: the outcome is a function of it and of the other arguments.
        population: individuals.
        generations: after the first population.
    """
    rng = np.random.default_rng(seed)
    first = np.concatenate(
        [start[:population], choices.sample(max(population - len(start), 0), rng)]
    )
    algorithm = nsga2(choices, population, np.unique(first, axis=0))
    algorithm.setup(
        genome_problem(choices, n_objectives),
        termination=("n_gen", generations + 1),
        seed=seed,
        verbose=False,
    )
    asked: list[Scored] = []
    while algorithm.has_next():
        infills = algorithm.ask()
        if infills is None or not len(infills):
            break
        part = infills.get("X").astype(np.int64)
        objectives, violation = score(part)
        asked.append(Scored(part, objectives, violation))
        infills.set("F", objectives)
        infills.set("G", violation[:, None])
        algorithm.tell(infills=infills)
    genomes = np.concatenate([part.genomes for part in asked])
    _, index = np.unique(genomes, axis=0, return_index=True)
    index = np.sort(index)
    return Scored(
        genomes[index],
        np.concatenate([part.objectives for part in asked])[index],
        np.concatenate([part.violation for part in asked])[index],
    )
