"""pymoo's genetic algorithms as outer searches: they ask for real trials and are told results."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from math import comb
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.ctaea import CTAEA
from pymoo.algorithms.moo.nsga3 import NSGA3, comp_by_cv_then_random
from pymoo.algorithms.moo.unsga3 import UNSGA3, comp_by_rank_and_ref_line_dist
from pymoo.core.algorithm import Algorithm
from pymoo.util.ref_dirs import get_reference_directions

from hw_profiles.errors import UsageError
from nas.engine.candidates import identity
from nas.engine.inner import Comparison, genome_operators, genome_problem, lots_by_seed, nsga2
from nas.engine.problem import Floats, Problem
from nas.engine.samplers import (
    OUTER_POPULATION,
    GenomeSampler,
    SamplerAt,
    register_sampler,
)
from nas.engine.told import Told
from search_spaces.choices import Genomes

FAILED_VIOLATION = 1e9
"""A failed evaluation is worse than any excess over a budget."""

Make = Callable[[Problem, Genomes], Algorithm]
"""Problem, distinct genomes to begin with (50 or fewer, genes) -> a pymoo algorithm."""


class PymooSearch(GenomeSampler):
    """One of pymoo's genetic algorithms as the outer search.

    Its state is that of the algorithm run from its seed over what was told: every genome that it
    asks for and the study knows is answered from the study; the first unknown one is proposed.
    What is told only grows, so the run is kept between proposals.

    Args:
        problem: what is searched.
        seed: of the study.
        make: the algorithm.
    """

    MAX_STALE = 100
    """Generations without a new genome after which one is drawn."""

    def __init__(self, problem: Problem, seed: int, make: Make) -> None:
        super().__init__(problem, seed)
        rng = np.random.default_rng([seed, 1])
        first = np.unique(problem.choices.sample(4 * OUTER_POPULATION, rng), axis=0)
        self._algorithm = make(problem, first[rng.permutation(len(first))[:OUTER_POPULATION]])
        self._algorithm.setup(
            genome_problem(problem.choices, len(problem.objectives)),
            termination=("n_gen", 10**9),
            seed=seed,
            verbose=False,
        )
        self._asked = self._algorithm.ask()
        #: Last trial that a generation so far needed, and generations since that needed none later.
        self._newest, self._stale = -1, 0

    def propose(self, told: Told) -> NDArray[np.int64]:
        """The first genome of the search that the study does not know."""
        rows: dict[bytes, int] = {}  # the last of each genome, and the first
        first: dict[bytes, int] = {}
        for i, genome in enumerate(told.genomes):
            key = identity(genome)
            rows[key] = i
            first.setdefault(key, i)
        first_pending = len(told) - told.n_pending
        while self._stale < self.MAX_STALE:
            if self._asked is None or not len(self._asked):
                break
            genomes = self._asked.get("X").astype(np.int64)
            for genome in genomes:
                if identity(genome) not in rows:
                    self.origin = {
                        "kind": "evolved",
                        "generation": int(self._algorithm.n_iter or 1) - 1,
                    }
                    return np.asarray(genome)
            index = [rows[identity(genome)] for genome in genomes]
            if max(index) >= first_pending:  # the generation is not known yet: another meanwhile
                break
            newest = max(first[identity(genome)] for genome in genomes)
            self._stale = 0 if newest > self._newest else self._stale + 1
            self._newest = max(self._newest, newest)
            values, complete = told.values[index], told.complete[index]
            # What has no value of its own gets the worst of its generation, a function of the
            # generation alone; it loses by its violation in any case.
            worst = values[complete].max(axis=0) if complete.any() else np.zeros(values.shape[1])
            self._asked.set("F", np.where(complete[:, None], values, worst))
            failed = ~np.isfinite(values).all(axis=1)
            excess = np.where(failed, FAILED_VIOLATION, told.violation[index])
            self._asked.set("G", excess[:, None])
            self._algorithm.tell(infills=self._asked)
            self._asked = self._algorithm.ask()
        self.origin = {"kind": "random"}
        drawn: NDArray[np.int64] = self.problem.choices.sample(
            1, np.random.default_rng([self.seed, 2, len(told)])
        )[0]
        return drawn


def directions(n_objectives: int) -> Floats:
    """At most 50 reference directions on the unit simplex, evenly spaced, (directions, k).

    Das and Dennis 1998, by as many partitions as fit.
    """
    partitions = 1
    while comb(partitions + n_objectives, n_objectives - 1) <= OUTER_POPULATION:
        partitions += 1
    found: Floats = get_reference_directions("das-dennis", n_objectives, n_partitions=partitions)
    return found


def _several(problem: Problem, name: str) -> int:
    k = len(problem.objectives)
    if k < 2 or k > OUTER_POPULATION:
        raise UsageError(
            f"{name} spreads its population over directions; it needs two objectives or more.",
            "Choose another sampler from `nas samplers`.",
        )
    return k


def _register(name: str, title: str, make: Make) -> None:
    @register_sampler(name, f"{title} (pymoo)")
    def _factory(problem: Problem, seed: int) -> SamplerAt:
        sampler = PymooSearch(problem, seed, make)
        return lambda told: sampler


def _directed(
    name: str, algorithm: Callable[..., Algorithm], comparison: Comparison | None = None
) -> Make:
    def make(problem: Problem, start: Genomes) -> Algorithm:
        toward = directions(_several(problem, name))
        more: dict[str, Any] = genome_operators(problem.choices, start)
        if algorithm is CTAEA:
            # Its archives have a place for each direction and wait for ever to be full.
            toward = toward[: len(start)]
            more["sampling"] = start[: len(toward)]
        else:
            more["pop_size"] = OUTER_POPULATION
        if comparison is not None:
            more["selection"] = lots_by_seed(comparison)
        return algorithm(toward, **more)

    return make


def _agemoea(problem: Problem, start: Genomes) -> Algorithm:
    _several(problem, "pymoo-agemoea")
    if find_spec("numba") is None:
        raise UsageError(
            "pymoo's AGE-MOEA needs the package numba.", "Install it: pip install numba."
        )
    from pymoo.algorithms.moo.age import AGEMOEA

    return AGEMOEA(pop_size=OUTER_POPULATION, **genome_operators(problem.choices, start))


_register(
    "pymoo-nsga2",
    "NSGA-II, population 50",
    lambda problem, start: nsga2(problem.choices, OUTER_POPULATION, start),
)
_register(
    "pymoo-nsga3",
    "NSGA-III, population 50",
    _directed("pymoo-nsga3", NSGA3, comp_by_cv_then_random),
)
_register(
    "pymoo-unsga3",
    "U-NSGA-III, population 50",
    _directed("pymoo-unsga3", UNSGA3, comp_by_rank_and_ref_line_dist),
)
_register("pymoo-ctaea", "C-TAEA, two archives of up to 50", _directed("pymoo-ctaea", CTAEA))
_register("pymoo-agemoea", "AGE-MOEA, population 50; needs numba", _agemoea)
