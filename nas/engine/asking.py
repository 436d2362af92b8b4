"""How a sampler is asked for a genome and told what was found of it.

Optuna's own samplers are asked through an Optuna study in memory; samplers of whole genomes are
asked directly, with what that study would hold in arrays.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseGASampler, BaseSampler, CmaEsSampler
from optuna.trial import TrialState

from nas.engine.problem import Floats, Problem
from nas.engine.samplers import GenomeSampler, SamplerAt, get_sampler
from nas.engine.told import CONSTRAINT, Memory, distributions

Genome = NDArray[np.int64]
UnderWay = Sequence[tuple[Genome, Floats]]
"""Canonical genomes (genes,) and what their objectives are believed to be, (k,)."""


@dataclass(frozen=True)
class Proposed:
    """What a sampler proposed.

    Attributes:
        raw: the genome as it made it, (genes,), perhaps not canonical.
        why: as plain data.
        trial: of the Optuna study, if there is one.
    """

    raw: Genome
    why: dict[str, Any]
    trial: optuna.Trial | None = None


@dataclass(frozen=True)
class Finding:
    """What was found of a proposal.

    Attributes:
        genome: canonical, (genes,).
        raw: as it was proposed.
        values: objectives in their own directions; None if its evaluation failed.
        violation: of the budgets.
        noise: of a costly objective, as in `Told`.
    """

    genome: Genome
    raw: Genome
    values: Sequence[float] | None
    violation: float
    noise: float


class Asking(ABC):
    """A sampler of a study, asked and told.

    Args:
        problem: what is searched.
        sampler_at: trials told, those under way included -> the sampler to ask.

    Attributes:
        n_told: proposals told.
        heeds_budgets: whether it ranks what violates a budget by how much, and not by its values.
    """

    heeds_budgets = True

    def __init__(self, problem: Problem, sampler_at: SamplerAt) -> None:
        self.problem = problem
        self.sampler_at = sampler_at
        self.n_told = 0

    @abstractmethod
    def ask(self, under_way: UnderWay) -> Proposed:
        """The next proposal.

        Raises:
            SpaceExhausted: if a sampler that looks for an unseen feasible genome found none.
        """

    def ask_again(self, raw: Genome) -> optuna.Trial | None:
        """The trial of what was proposed once, of a sampler that keeps its state in its trials.

        None of any other, and where it proposes something else now: with several candidates under
        way it was told in another order.
        """
        return None

    @abstractmethod
    def tell(self, found: Finding, trial: optuna.Trial | None = None) -> None:
        """Tell what was found of a proposal.

        Args:
            found: of it.
            trial: of the Optuna study; None of what was proposed before the process began.
        """


class Directly(Asking):
    """A sampler of whole genomes."""

    def __init__(self, problem: Problem, sampler_at: SamplerAt) -> None:
        super().__init__(problem, sampler_at)
        self._memory = Memory(problem)

    def ask(self, under_way: UnderWay) -> Proposed:
        sampler = self.sampler_at(self.n_told + len(under_way))
        assert isinstance(sampler, GenomeSampler)
        told = self._memory.told([g for g, _ in under_way], [v for _, v in under_way])
        raw = np.asarray(sampler.propose(told), dtype=np.int64)
        return Proposed(raw, sampler.origin)

    def tell(self, found: Finding, trial: optuna.Trial | None = None) -> None:
        failed = [math.nan] * len(self.problem.objectives)
        self._memory.add(
            found.genome[None, :],
            np.array([failed if found.values is None else found.values]),
            np.array([found.violation]),
            np.array([found.noise]),
        )
        self.n_told += 1


class ThroughOptuna(Asking):
    """A sampler of Optuna.

    Args:
        problem: what is searched.
        sampler_at: as of `Asking`.
        name: of the sampler.
    """

    def __init__(self, problem: Problem, sampler_at: SamplerAt, name: str) -> None:
        super().__init__(problem, sampler_at)
        self._name = name
        self._distributions = distributions(problem.choices)
        self._n_complete = 0
        first = self._sampler(0)
        # It keeps its state in its own trials, and knows nothing of constraints.
        self._cma_es = isinstance(first, CmaEsSampler)
        self.heeds_budgets = not self._cma_es
        with _quiet():
            self._study = optuna.create_study(
                directions=["maximize" if o.maximise else "minimize" for o in problem.objectives],
                sampler=first,
            )

    def _sampler(self, told: int) -> BaseSampler:
        sampler = self.sampler_at(told)
        assert isinstance(sampler, BaseSampler)
        return sampler

    def ask(self, under_way: UnderWay) -> Proposed:
        self._study.sampler = self._sampler(self.n_told + len(under_way))
        trial = self._study.ask(self._distributions)
        raw = [trial.params[name] for name in self.problem.choices.names]
        return Proposed(np.array(raw, dtype=np.int64), {"kind": self._name}, trial)

    def ask_again(self, raw: Genome) -> optuna.Trial | None:
        if not self._cma_es:
            return None
        proposed = self.ask(())
        assert proposed.trial is not None
        if (proposed.raw == raw).all():
            return proposed.trial
        self._study.tell(proposed.trial, state=TrialState.FAIL)
        return None

    def tell(self, found: Finding, trial: optuna.Trial | None = None) -> None:
        """Optuna has no place for noise: there an estimate is as good as any value."""
        state = TrialState.FAIL if found.values is None else TrialState.COMPLETE
        if trial is not None:
            if self.heeds_budgets:
                trial.set_constraint(CONSTRAINT, found.violation)
            self._study.tell(trial, found.values, state=state)
        else:
            self._study.add_trial(
                optuna.trial.create_trial(
                    state=state,
                    values=found.values,
                    params=dict(zip(self.problem.choices.names, map(int, found.raw), strict=True)),
                    distributions=self._distributions,
                    system_attrs=self._generation(),
                    constraints={CONSTRAINT: found.violation} if self.heeds_budgets else None,
                )
            )
        self.n_told += 1
        self._n_complete += found.values is not None

    def _generation(self) -> dict[str, Any]:
        """The mark that Optuna's genetic samplers leave on a trial when they are asked for it.

        Asked one at a time, they open a new generation after each `population_size` complete
        trials.
        """
        sampler = self._sampler(self.n_told)
        if not isinstance(sampler, BaseGASampler) or not sampler.population_size:
            return {}
        return {sampler._get_generation_key(): self._n_complete // sampler.population_size}


def asking(problem: Problem, name: str, seed: int) -> Asking:
    """The sampler of a study by its registered name, to be asked.

    Raises:
        NotFoundError: if there is no such sampler.
        UsageError: if it does not apply to the problem.
    """
    sampler_at = get_sampler(name, problem, seed)
    if isinstance(sampler_at(0), GenomeSampler):
        return Directly(problem, sampler_at)
    return ThroughOptuna(problem, sampler_at, name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's line for every study created."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
