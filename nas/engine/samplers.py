"""The samplers that a study can name, and what each proposes next.

A sampler is an Optuna sampler whose proposal is a function of the seed and of what the study has
been told. Optuna's own carry a random state; here a fresh one is made for every ask, seeded by
the study's seed and the number of trials told, so that a resumed study goes on as it would have.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from hw_profiles.errors import nearest
from nas.engine.candidates import identity
from nas.engine.inner import genome_problem, nsga2
from nas.engine.problem import Problem
from nas.engine.told import Told, distributions

SamplerAt = Callable[[int], BaseSampler]
"""Number of trials told -> the sampler to ask next."""
SamplerFactory = Callable[[Problem, int], SamplerAt]
"""Problem and the study's seed -> samplers."""

OUTER_POPULATION = 50
FAILED_VIOLATION = 1e9
"""A failed evaluation is worse than any excess over a budget."""


@dataclass(frozen=True, slots=True)
class _Entry:
    factory: SamplerFactory
    title: str


_SAMPLERS: dict[str, _Entry] = {}


def register_sampler(name: str, title: str) -> Callable[[SamplerFactory], SamplerFactory]:
    """Register a factory `(problem, seed) -> (trials told) -> Optuna sampler`.

    A package outside this one registers by an entry point in the group `nas.samplers` that names
    a module with such a decorated factory.
    """

    def add(factory: SamplerFactory) -> SamplerFactory:
        _SAMPLERS[name] = _Entry(factory, title)
        return factory

    return add


def _entries() -> dict[str, _Entry]:
    # They register themselves.
    import nas.engine.evolution
    import nas.engine.guided
    import nas.engine.mixnmatch  # noqa: F401

    for plugin in entry_points(group="nas.samplers"):
        if plugin.name not in _SAMPLERS:
            plugin.load()
    return _SAMPLERS


def list_samplers() -> dict[str, str]:
    """Registered samplers, name -> title."""
    return {name: entry.title for name, entry in sorted(_entries().items())}


def require_sampler(name: str) -> None:
    """Check a name.

    Raises:
        NotFoundError: if there is no such sampler; the nearest names are in the hint.
    """
    if name not in _entries():
        raise nearest(name, _entries(), "sampler")


def get_sampler(name: str, problem: Problem, seed: int) -> SamplerAt:
    """The samplers of a study by name.

    Raises:
        NotFoundError: if there is no such sampler.
    """
    require_sampler(name)
    return _entries()[name].factory(problem, seed)


def derived_seed(seed: int, *numbers: int) -> int:
    """A seed below 2**31 that depends on all its arguments."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0] >> 1)


@register_sampler("random", "uniform draws")
def _random(problem: Problem, seed: int) -> SamplerAt:
    return lambda told: RandomSampler(seed=derived_seed(seed, told))


@register_sampler("tpe", "tree-structured Parzen estimator (Optuna)")
def _tpe(problem: Problem, seed: int) -> SamplerAt:
    return lambda told: TPESampler(seed=derived_seed(seed, told))


class OrderedNSGAII(NSGAIISampler):
    """Optuna's NSGA-II with parents in the order of their trials.

    Optuna has them in another order in the first ask of a generation than in the later ones, so
    that a study rebuilt within a generation would draw other parents.
    """

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation."""
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


@register_sampler("nsga2", "NSGA-II, population 50 (Optuna)")
def _nsga2(problem: Problem, seed: int) -> SamplerAt:
    return lambda told: OrderedNSGAII(
        population_size=OUTER_POPULATION, seed=derived_seed(seed, told)
    )


class SpaceExhausted(Exception):
    """A sampler that looked for an unseen feasible genome and found none."""


class GenomeSampler(BaseSampler):
    """An Optuna sampler that proposes whole genomes.

    Attributes:
        origin: why the last genome was proposed, as plain data.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.seed = seed
        self.origin: dict[str, Any] = {}

    @abstractmethod
    def propose(self, told: Told) -> NDArray[np.int64]:
        """The next genome (genes,), a function of the seed and of what was told alone.

        Raises:
            SpaceExhausted: if nothing is left to propose.
        """

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All genes."""
        return distributions(self.problem.choices)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The proposed genome as parameters."""
        genome = self.propose(Told.of(study, self.problem))
        return dict(zip(self.problem.choices.names, map(int, genome), strict=True))

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Parameters that a caller asks for beside the genome are drawn at random."""
        chance = RandomSampler(seed=derived_seed(self.seed, trial.number))
        return chance.sample_independent(study, trial, param_name, param_distribution)


class PymooNSGA2(GenomeSampler):
    """pymoo's NSGA-II as the outer search.

    Its state is that of the algorithm run from its seed over what was told: every genome that it
    asks for and the study knows is answered from the study; the first unknown one is proposed.
    What is told only grows, so the run is kept between proposals.
    """

    MAX_STALE = 100
    """Generations without a new genome after which one is drawn."""

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        rng = np.random.default_rng([seed, 1])
        first = np.unique(problem.choices.sample(4 * OUTER_POPULATION, rng), axis=0)
        start = first[rng.permutation(len(first))[:OUTER_POPULATION]]
        self._algorithm = nsga2(problem.choices, OUTER_POPULATION, start)
        self._algorithm.setup(
            genome_problem(problem.choices, len(problem.objectives)),
            termination=("n_gen", 10**9),
            seed=seed,
            verbose=False,
        )
        self._asked = self._algorithm.ask()

    def propose(self, told: Told) -> NDArray[np.int64]:
        """The first genome of the search that the study does not know."""
        rows = {identity(genome): i for i, genome in enumerate(told.genomes)}
        for _ in range(self.MAX_STALE):
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
            failed = ~np.isfinite(told.values[index])
            self._asked.set("F", np.where(failed, 0.0, told.values[index]))
            excess = np.where(failed.any(axis=1), FAILED_VIOLATION, told.violation[index])
            self._asked.set("G", excess[:, None])
            self._algorithm.tell(infills=self._asked)
            self._asked = self._algorithm.ask()
        self.origin = {"kind": "random"}
        drawn: NDArray[np.int64] = self.problem.choices.sample(
            1, np.random.default_rng([self.seed, 2, len(told)])
        )[0]
        return drawn


@register_sampler("pymoo-nsga2", "NSGA-II, population 50 (pymoo)")
def _pymoo_nsga2(problem: Problem, seed: int) -> SamplerAt:
    sampler = PymooNSGA2(problem, seed)
    return lambda told: sampler
