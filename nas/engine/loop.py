"""The loop of a study: ask, submit, record, tell.

A sampler is asked for one trial at a time, as soon as the executor has room for one. What it
proposes is really evaluated only if it is new and meets every budget on known quantities; otherwise
it is told what is known, and asked again. Candidates under way count as believed. All proposals
made for a trial are kept in the trial's origin, so that everything a sampler will do can be rebuilt
from the recorded trials alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal

import numpy as np
import optuna
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from nas.engine.asking import Finding, asking
from nas.engine.candidates import Candidates, identities, identity
from nas.engine.goal import Goals
from nas.engine.problem import Problem
from nas.engine.samplers import SpaceExhausted
from nas.errors import BudgetError
from nas.executors.executor import PART_NOISE, Evaluate, Executor, InProcess, Outcome
from search_spaces.choices import Genomes

MAX_ASKS = 20
"""Proposals for one trial before an unseen feasible genome is drawn at random."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluated:
    """A trial.

    Attributes:
        number: position in the order of asking, from 0.
        genome: canonical, (genes,).
        key: hash of the active part.
        values: every objective if complete, the known ones if failed.
        feasible: whether it was evaluated and meets every budget on known quantities.
        state: `failed` trials have `origin["reason"]`; `partial` ones were evaluated on a part of
            the data alone, which showed that they miss `origin["goal"]`.
        origin: why it was proposed, as plain data. `asked` lists all the genomes proposed for
            it, its own last, where there was more than its own.
        seconds: wall time of its evaluation.
        details: what the evaluation returned beside the objectives.
        noise: of a partial trial, the standard error of its costly objective as an estimate of
            the one on all data; else 0.
    """

    number: int
    genome: NDArray[np.int64]
    key: str
    values: dict[str, float]
    feasible: bool
    state: Literal["complete", "partial", "failed"]
    origin: dict[str, Any]
    seconds: float = 0.0
    details: dict[str, float] = field(default_factory=dict)
    noise: float = 0.0


def run_search(
    problem: Problem,
    sampler: str,
    *,
    trials: int,
    seed: int,
    history: Sequence[Evaluated],
    evaluate: Evaluate | Executor,
    record: Callable[[Evaluated], None],
    should_stop: Callable[[], bool] | None = None,
) -> list[Evaluated]:
    """Bring a study to its total of trials.

    With one candidate at a time every proposal is a function of the seed and of the trials before
    it: a study interrupted after any trial and continued from its history equals one that ran
    through. With several under way, proposals also depend on what is finished when.

    Args:
        problem: what is searched.
        sampler: a registered name.
        trials: the study's total, history included.
        seed: of the study.
        history: its trials so far, in order. Numbers that are missing are asked for again.
        evaluate: genome, trial number and goal -> costly objectives, called here; or an executor.
            Whatever it raises makes a failed trial, as a missing value or one that is not finite
            does. All but `EvaluationFailed` and values that are not finite is tried once more.
        record: called with each new trial as it arrives, before another is asked for.
        should_stop: asked before each trial; what is under way is finished.

    Returns:
        All trials, history first. Fewer than `trials` if it was stopped, or if no unseen feasible
        candidate was found, which is logged as a warning.

    Raises:
        NotFoundError: if there is no such sampler.
        BudgetError: if no candidate that meets the budgets was found at all.
        ExecutorError: if nothing can be evaluated any more.
    """
    loop = _Loop(problem, sampler, seed)
    executor = evaluate if isinstance(evaluate, Executor) else InProcess(evaluate)
    done = list(history)
    # Matrices of a hundred rows: a second BLAS thread makes a proposal four times slower.
    one_thread = ThreadpoolController().limit
    with one_thread(limits=1, user_api="blas"):
        loop.replay(done)
    taken = {trial.number for trial in done}
    numbers = (number for number in count() if number not in taken)
    tried_again: set[int] = set()
    while True:
        exhausted = False
        while (
            len(loop.pending) < executor.capacity
            and len(done) + len(loop.pending) < trials
            and not exhausted
            and not (should_stop is not None and should_stop())
        ):
            with one_thread(limits=1, user_api="blas"):
                proposal = loop.propose()
            exhausted = proposal is None
            if proposal is not None:
                number = next(numbers)
                loop.pending[number] = proposal
                executor.submit(number, proposal.genome, proposal.goal)
        if not loop.pending:
            break
        for outcome in executor.wait():
            number = outcome.number
            if outcome.values is None and outcome.again and number not in tried_again:
                tried_again.add(number)
                proposal = loop.pending[number]
                executor.submit(number, proposal.genome, proposal.goal)
                continue
            trial = loop.judge(outcome, attempts=2 if number in tried_again else 1)
            record(trial)
            loop.tell(trial)
            done.append(trial)
    if exhausted and not done:
        raise BudgetError("no candidate that meets the budget was found.", "Give a larger budget.")
    if exhausted:
        logger.warning(
            "no unseen candidate that meets the budget %s after %d of %d trials",
            "is left" if loop.used_up() else "was found",
            len(done),
            trials,
        )
    return done


@dataclass(frozen=True)
class _Proposal:
    """A new feasible genome.

    Attributes:
        genome: canonical, (genes,).
        origin: why it was proposed.
        believed: its objectives until they are found, NaN where nothing predicts one, (k,).
        goal: what its costly objective must reach to be on the front of the trials told.
        trial: of the Optuna study, if there is one.
    """

    genome: NDArray[np.int64]
    origin: dict[str, Any]
    believed: NDArray[np.float64]
    goal: float | None
    trial: optuna.Trial | None


class _Loop:
    """What a sampler was told, what is under way, and what is known of each genome."""

    def __init__(self, problem: Problem, sampler: str, seed: int) -> None:
        self.problem = problem
        self.name = sampler
        self.asking = asking(problem, sampler, seed)
        self.candidates = Candidates(problem, seed)
        self.listed = None if problem.listed is None else set(identities(problem.listed))
        self.known: dict[bytes, Evaluated] = {}
        self._free: dict[bytes, tuple[dict[str, float], float]] = {}
        self.pending: dict[int, _Proposal] = {}
        self.goals = Goals(problem)
        self._worst: dict[str, float] = {}  # value of each costly objective so far

    def propose(self) -> _Proposal | None:
        """The next new feasible genome; None if none was found."""
        asked: list[list[int]] = []
        under_way = [(p.genome, p.believed) for p in self.pending.values()]
        busy = {identity(genome) for genome, _ in under_way}
        for _ in range(MAX_ASKS):
            try:
                found = self.asking.ask(under_way)
            except SpaceExhausted:
                return None
            genome = self.problem.choices.canonical(found.raw[None, :])[0]
            asked.append([int(g) for g in found.raw])
            key = identity(genome)
            if key not in self.known and key not in busy and self._violation(genome) <= 0:
                return self._proposed(genome, found.why, asked, found.trial)
            self._tell_aside(found.trial, genome, found.raw)
            if self.listed is not None and key not in self.listed:
                near = self.candidates.nearest(genome, {*self.known, *busy})
                return self._instead(near, "nearest", asked)
        number = self.asking.n_told + len(under_way)
        drawn = self.candidates.unseen({*self.known, *busy}, 6, number)
        return self._instead(drawn, "random", asked)

    def used_up(self) -> bool:
        """Whether every feasible genome is known; never said of a space too large to be listed."""
        every = self.candidates.every_feasible
        return every is not None and self.known.keys() >= set(identities(every))

    def _instead(
        self, genome: NDArray[np.int64] | None, kind: str, asked: list[list[int]]
    ) -> _Proposal | None:
        """A genome in place of those that the sampler proposed; None if there is none."""
        if genome is None:
            return None
        return self._proposed(genome, {"kind": kind}, [*asked, [int(g) for g in genome]], None)

    def _proposed(
        self,
        genome: NDArray[np.int64],
        why: dict[str, Any],
        asked: list[list[int]],
        trial: optuna.Trial | None,
    ) -> _Proposal:
        believed = {**why.get("predicted", {}), **self._known_values(genome)}
        values = np.array([believed.get(o.name, math.nan) for o in self.problem.objectives])
        goal = self.goals.of(values)
        return _Proposal(genome, self._origin(why, genome, asked), values, goal, trial)

    def _origin(
        self, why: dict[str, Any], genome: NDArray[np.int64], asked: list[list[int]]
    ) -> dict[str, Any]:
        plain = len(asked) == 1 and asked[0] == [int(g) for g in genome]
        return dict(why) if plain else {**why, "asked": asked}

    def _violation(self, genome: NDArray[np.int64]) -> float:
        return self._look_up(genome)[1]

    def _known_values(self, genome: NDArray[np.int64]) -> dict[str, float]:
        return dict(self._look_up(genome)[0])

    def _look_up(self, genome: NDArray[np.int64]) -> tuple[dict[str, float], float]:
        key = identity(genome)
        if key not in self._free:
            self._compute(genome[None, :])
        return self._free[key]

    def _compute(self, genomes: Genomes) -> None:
        """Known objectives and violation of many genomes at once, kept."""
        costs = self.problem.costs(genomes) if self.problem.known else {}
        violation = self.problem.violation(genomes)
        for i, genome in enumerate(genomes):
            values = {name: float(costs[name][i]) for name in self.problem.known}
            self._free[identity(genome)] = values, float(violation[i])

    def judge(self, outcome: Outcome, attempts: int) -> Evaluated:
        """The trial of a proposal under way, complete, partial or failed."""
        proposal = self.pending[outcome.number]
        genome, origin = proposal.genome, dict(proposal.origin)
        found, reason = dict(outcome.values or {}), outcome.reason
        values = self._known_values(genome)
        if outcome.values is not None:
            for objective in self.problem.costly:
                value = float(found.pop(objective.name, math.nan))
                if not math.isfinite(value):
                    reason = reason or f"{objective.name} is {value}, not a finite number"
                values[objective.name] = value
        noise = found.pop(PART_NOISE, None)
        state: Literal["complete", "partial", "failed"] = "complete"
        if attempts > 1:
            origin["attempts"] = attempts
        if reason:
            state, origin["reason"] = "failed", reason
            values, found, noise = self._known_values(genome), {}, None
        elif noise is not None:
            state, origin["goal"] = "partial", proposal.goal
        return Evaluated(
            number=outcome.number,
            genome=genome,
            key=self.problem.choices.keys(genome[None, :])[0],
            values=values,
            feasible=not reason,
            state=state,
            origin=origin,
            seconds=outcome.seconds,
            details=found,
            noise=noise or 0.0,
        )

    def replay(self, trials: Sequence[Evaluated]) -> None:
        """Tell the study recorded trials, each after all that was proposed before it."""
        asked = [np.array(t.origin.get("asked") or [t.genome], dtype=np.int64) for t in trials]
        if asked:
            self._compute(self.problem.choices.canonical(np.concatenate(asked)))
        for trial, raw in zip(trials, asked, strict=True):
            for aside in raw[:-1]:
                genome = self.problem.choices.canonical(aside[None, :])[0]
                self._tell_aside(self.asking.ask_again(aside), genome, aside)
            its_own = trial.origin.get("kind") == self.name
            self.tell(trial, raw[-1], self.asking.ask_again(raw[-1]) if its_own else None)

    def tell(
        self,
        trial: Evaluated,
        raw: NDArray[np.int64] | None = None,
        asked: optuna.Trial | None = None,
    ) -> None:
        """Tell the study a trial: one that is under way, or one from elsewhere.

        Args:
            trial: with what was found.
            raw: of one from elsewhere, its genome as it was proposed.
            asked: of one from elsewhere, its trial of the Optuna study, if it has one.
        """
        self.known[identity(np.asarray(trial.genome))] = trial
        proposal = self.pending.pop(trial.number, None)
        values = None if trial.state == "failed" else self._values(trial)
        if trial.state == "complete" and values and self._violation(trial.genome) <= 0:
            self.goals.add(np.array(values))
        for objective in self.problem.costly if values else ():
            value = trial.values[objective.name]
            before = self._worst.get(objective.name, value)
            worse = min if objective.maximise else max
            self._worst[objective.name] = worse(before, value)
        proposed = trial.genome if raw is None else raw
        violation = self._violation(trial.genome)
        self.asking.tell(
            Finding(trial.genome, proposed, values, violation, trial.noise),
            asked if proposal is None else proposal.trial,
        )

    def _tell_aside(
        self,
        trial: optuna.Trial | None,
        genome: NDArray[np.int64],
        raw: NDArray[np.int64],
    ) -> None:
        """Tell what is known of a proposal that is not worth an evaluation."""
        before = self.known.get(identity(genome))
        noise = 0.0 if before is None else before.noise
        values: list[float] | None
        if before is None and self._violation(genome) <= 0:
            values = None  # one that is under way
        elif before is not None:
            values = None if before.state == "failed" else self._values(before)
        elif not self.asking.heeds_budgets:
            values = None
        else:
            # Samplers rank what violates a constraint by how much. Optuna's Gaussian process models
            # the values all the same: the worst known, 0 before any is, is to draw it there least.
            believed = {**self._worst, **self._known_values(genome)}
            values = [believed.get(o.name, 0.0) for o in self.problem.objectives]
        self.asking.tell(Finding(genome, raw, values, self._violation(genome), noise), trial)

    def _values(self, trial: Evaluated) -> list[float]:
        values = {**trial.values, **self._known_values(trial.genome)}
        return [float(values[o.name]) for o in self.problem.objectives]
