"""The samplers that a study can name, and what each proposes next.

A sampler's proposal is a function of the seed and of what the study has been told. Optuna's own
carry a random state; here a fresh one is made for every ask, seeded by the study's seed and the
number of trials told, so that a resumed study goes on as it would have.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    RandomSampler,
    TPESampler,
)
from optuna.samplers._ga import BaseGASampler
from optuna.trial import FrozenTrial

from hw_profiles.errors import UsageError, nearest
from hw_profiles.plugins import load_plugins
from nas.engine.problem import Problem
from nas.engine.told import Told, distributions
from search_spaces.choices import ChoiceSet

SamplerAt = Callable[[int], "BaseSampler | GenomeSampler"]
"""Number of trials told -> the sampler to ask next."""
SamplerFactory = Callable[[Problem, int], SamplerAt]
"""Problem and the study's seed -> samplers."""

OUTER_POPULATION = 50


@dataclass(frozen=True, slots=True)
class _Entry:
    factory: SamplerFactory
    title: str


_SAMPLERS: dict[str, _Entry] = {}


def register_sampler(name: str, title: str) -> Callable[[SamplerFactory], SamplerFactory]:
    """Register a factory `(problem, seed) -> (trials told) -> sampler`, Optuna's or of genomes.

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
    import nas.engine.linas
    import nas.engine.mixnmatch
    import nas.engine.outer  # noqa: F401

    load_plugins("nas.samplers", _SAMPLERS)
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


def _searched(choices: ChoiceSet) -> dict[str, BaseDistribution]:
    """What NSGA-II and III of Optuna search together: genes by name, those with a choice.

    Optuna gathers it from all the trials there are, which for a fresh sampler an ask costs more
    than the rest of them.
    """
    found = sorted(distributions(choices).items())
    return {name: distribution for name, distribution in found if not distribution.single()}


class _Generations(BaseGASampler):
    """Parents of the generations in turn, from the first that is not known yet.

    Optuna asks for each generation's inside the next one's, which of a rebuilt study of 17,000
    trials is deeper than Python goes.
    """

    _searched: dict[str, BaseDistribution]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All genes."""
        return self._searched

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation, kept in the study."""
        made = study._storage.get_study_system_attrs(study._study_id)
        prefix = self._get_parent_cache_key_prefix()
        first = generation
        while first > 1 and f"{prefix}{first - 1}" not in made:
            first -= 1
        for older in range(first, generation):
            super().get_parent_population(study, older)
        return super().get_parent_population(study, generation)


class OrderedNSGAII(_Generations, NSGAIISampler):
    """Optuna's NSGA-II with parents in the order of their trials.

    Optuna has them in another order in the first ask of a generation than in the later ones, so
    that a study rebuilt within a generation would draw other parents.
    """

    def __init__(self, searched: dict[str, BaseDistribution], seed: int) -> None:
        super().__init__(population_size=OUTER_POPULATION, seed=seed)
        self._searched = searched

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation."""
        return sorted(super().select_parent(study, generation), key=lambda trial: trial.number)


@register_sampler("nsga2", "NSGA-II, population 50 (Optuna)")
def _nsga2(problem: Problem, seed: int) -> SamplerAt:
    searched = _searched(problem.choices)
    return lambda told: OrderedNSGAII(searched, derived_seed(seed, told))


@contextmanager
def _experimental() -> Iterator[None]:
    """Without the warning that a part of Optuna may change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


class OrderedNSGAIII(_Generations, NSGAIIISampler):
    """Optuna's NSGA-III with parents that are a function of the study's seed and their generation.

    Its choice of parents is partly by lot. Optuna draws it once a generation and keeps it; a study
    rebuilt within a generation draws again.
    """

    def __init__(self, searched: dict[str, BaseDistribution], study_seed: int, told: int) -> None:
        with _experimental():
            super().__init__(population_size=OUTER_POPULATION, seed=derived_seed(study_seed, told))
        self._searched = searched
        self._study_seed = study_seed

    def select_parent(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The parents of a generation."""
        chooser = OrderedNSGAIII(self._searched, self._study_seed, -generation % 2**31)
        chosen = super(OrderedNSGAIII, chooser).select_parent(study, generation)
        return sorted(chosen, key=lambda trial: trial.number)


@register_sampler("nsga3", "NSGA-III, population 50 (Optuna)")
def _nsga3(problem: Problem, seed: int) -> SamplerAt:
    searched = _searched(problem.choices)
    return lambda told: OrderedNSGAIII(searched, seed, told)


@register_sampler("gp", "Gaussian process, expected hypervolume improvement (Optuna)")
def _gp(problem: Problem, seed: int) -> SamplerAt:
    def at(told: int) -> BaseSampler:
        with _experimental():
            return GPSampler(seed=derived_seed(seed, told))

    return at


@register_sampler("cmaes", "CMA-ES (Optuna): one objective, ordered choices that always exist")
def _cmaes(problem: Problem, seed: int) -> SamplerAt:
    if len(problem.objectives) != 1:
        raise UsageError(
            f"cmaes ranks by one number; this study has {len(problem.objectives)} objectives.",
            "Give one --objective, or choose another sampler from `nas samplers`.",
        )
    for choice in problem.choices.choices:
        if not choice.ordinal or choice.active is not None:
            what = "exists for some candidates only" if choice.ordinal else "has no order"
            raise UsageError(
                f"cmaes searches ordered choices that always exist; {choice.name} {what}.",
                "Choose another sampler from `nas samplers`.",
            )
    if find_spec("cmaes") is None:
        raise UsageError("cmaes needs the package cmaes.", "Install it: pip install cmaes.")

    def at(told: int) -> BaseSampler:
        with _experimental():
            return CmaEsSampler(seed=derived_seed(seed, told), with_margin=True)

    return at


class SpaceExhausted(Exception):
    """A sampler that looked for an unseen feasible genome and found none."""


class GenomeSampler(ABC):
    """A sampler that proposes whole genomes, without Optuna.

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
