"""Mix'n'Match: granularities that do not fall with depth (MatFormer, arXiv:2310.07707).

Layers that share nested weights are mixed so that the granularity changes as little as possible:
ascending over depth, of two neighbouring values at most. What is free then is one number for all
layers together, and a study spreads its trials over that number, and so over cost. Where all that
is drawn in this way is known, any genome that meets the budgets follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hw_profiles.errors import UsageError
from nas.engine.candidates import Candidates, identity
from nas.engine.problem import Floats, Problem
from nas.engine.samplers import GenomeSampler, SamplerAt, SpaceExhausted, register_sampler
from nas.engine.told import Told
from predictors.genome_encoder import ladders
from search_spaces.choices import ChoiceSet, Genomes

POOL = 2_048
"""Draws of one pool; a trial is the one of them that is nearest to its place in cost."""
MAX_POOLS = 4
"""Pools drawn before genomes are taken at random, mixed or not."""
HALVINGS = 7
"""Steps of the bisection that shrinks a draw until it meets the budgets."""
ALMOST_ONE = 1 - 1e-9


def ordered_ladders(choices: ChoiceSet) -> list[NDArray[np.int64]]:
    """Ladders of ordered choices; one whose choices depend on another's comes after that one."""
    depends = np.zeros(len(choices), dtype=np.int64)
    for gene, choice in enumerate(choices.choices):
        if choice.active is not None:
            depends[gene] = 1 + depends[choices.index(choice.active.choice)]
    rungs = [genes for genes in ladders(choices) if choices.choices[genes[0]].ordinal]
    return sorted(rungs, key=lambda genes: int(depends[genes].max()))


@dataclass(frozen=True)
class _Pool:
    """Distinct feasible genomes (n, genes), their cost (n,), and which are as in the paper (n,)."""

    genomes: Genomes
    cost: Floats
    pure: NDArray[np.bool_]


class MixNMatch(GenomeSampler):
    """Proposes non-decreasing granularities, spread over the cost that the budgets leave.

    As in the paper, every other proposal has all other ordered choices at their largest, and one
    setting of the unordered ones; those between vary them too.

    Args:
        problem: what is searched.
        seed: of the study.

    Raises:
        UsageError: if no ordered choice repeats over the layers.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self._ladders = ordered_ladders(problem.choices)
        if not self._ladders:
            raise UsageError(
                "mixnmatch needs a choice of nested sizes in every layer, such as `layers.0.ffn`; "
                "this space has none.",
                "Take another sampler; `nas samplers` lists them.",
            )
        self._ordered = np.array([choice.ordinal for choice in problem.choices.choices])
        self._pools: dict[int, _Pool] = {}
        self.candidates = Candidates(problem, seed)

    def propose(self, told: Told) -> NDArray[np.int64]:
        """The unseen genome that is nearest to the next place on the scale of costs.

        Raises:
            SpaceExhausted: if no unseen feasible genome was found, mixed or not.
        """
        seen = {identity(genome) for genome in told.genomes}
        turn, varied = divmod(len(told), 2)
        for number in range(MAX_POOLS):
            pool = self._pool(number)
            unseen = np.array([identity(g) not in seen for g in pool.genomes], dtype=bool)
            if not unseen.any():
                continue
            pure = not varied and bool((unseen & pool.pure).any())
            scale = pool.cost[pool.pure] if pure else pool.cost
            aim = scale.min() + (scale.max() - scale.min()) * _place(turn)
            rows = np.flatnonzero(unseen & pool.pure if pure else unseen)
            best = rows[np.argmin(np.abs(pool.cost[rows] - aim))]
            self.origin = {"kind": "mixed" if pure else "varied"}
            return np.asarray(pool.genomes[best])
        drawn = self.candidates.unseen(seen, 11, len(told))
        if drawn is None:
            raise SpaceExhausted
        self.origin = {"kind": "random"}
        return drawn

    def _pool(self, number: int) -> _Pool:
        """The draws of a number, each as large as drawn or else as the budgets let it be."""
        if number in self._pools:
            return self._pools[number]
        rng = np.random.default_rng([self.seed, 7, number])
        pure = np.arange(POOL) < POOL // 2
        steps = rng.random((POOL, len(self._ladders)))
        sizes = rng.random((POOL, len(self.problem.choices)))
        # Unordered genes are alike in pure draws and in half of the others.
        alike = (pure | (rng.random(POOL) < 0.5))[:, None]
        sizes = np.where(alike & ~self._ordered, rng.random((POOL, 1)), sizes)
        sizes = np.where(pure[:, None] & self._ordered, ALMOST_ONE, sizes)
        genomes = self._within_budget(steps, sizes, pure)
        # Of equal draws the first stays, so that what is pure is known to be.
        _, first = np.unique(genomes, axis=0, return_index=True)
        first = np.sort(first)
        first = first[self.problem.feasible(genomes[first])]
        pool = _Pool(genomes[first], self._cost(genomes[first]), pure[first])
        self._pools[number] = pool
        return pool

    def _within_budget(self, steps: Floats, sizes: Floats, pure: NDArray[np.bool_]) -> Genomes:
        """The genomes of draws, those beyond the budgets scaled down by bisection.

        Shapes: steps (n, ladders) and sizes (n, genes) in [0, 1), pure (n,) -> (n, genes).
        """

        def scaled(share: Floats) -> Genomes:
            shrinks = self._ordered & ~pure[:, None]
            return self._genomes(
                steps * share[:, None], np.where(shrinks, sizes * share[:, None], sizes)
            )

        share, below = np.ones(len(steps)), np.zeros(len(steps))
        genomes = scaled(share)
        over = self.problem.violation(genomes) > 0
        if not over.any():
            return genomes
        above = share.copy()
        for _ in range(HALVINGS):
            middle = (below + above) / 2
            met = self.problem.feasible(scaled(middle))
            below, above = np.where(met, middle, below), np.where(met, above, middle)
        return np.where(over[:, None], scaled(below), genomes)

    def _genomes(self, steps: Floats, sizes: Floats) -> Genomes:
        """Canonical genomes with each ladder at a step, all else at a size, both in [0, 1)."""
        choices = self.problem.choices
        genomes = (sizes * choices.sizes).astype(np.int64)
        for column, rungs in enumerate(self._ladders):
            active = choices.active(genomes)[:, rungs]
            count = active.sum(axis=1, keepdims=True)
            top = int(choices.sizes[rungs[0]]) - 1
            total = (steps[:, column : column + 1] * (count * top + 1)).astype(np.int64)
            low, raised = np.divmod(total, np.maximum(count, 1))
            from_the_end = count - np.cumsum(active, axis=1)
            genomes[:, rungs] = np.where(active, low + (from_the_end < raised), 0)
        return choices.canonical(genomes)

    def _cost(self, genomes: Genomes) -> Floats:
        """What trials are spread over: the first known cost, or the mean size, (n,)."""
        if self.problem.known:
            costs: Floats = self.problem.known_costs(genomes)[:, 0]
            return costs
        largest = np.maximum(self.problem.choices.sizes - 1, 1)
        mean: Floats = (genomes / largest)[:, self._ordered].mean(axis=1)
        return mean


def _place(turn: int) -> float:
    """1, 0, 1/2, 1/4, 3/4, 1/8, ...: ends first, then evenly between (van der Corput)."""
    if turn < 2:
        return 1.0 - turn
    turn, place, half = turn - 1, 0.0, 0.5
    while turn:
        place += half * (turn & 1)
        turn, half = turn >> 1, half / 2
    return place


@register_sampler("mixnmatch", "Mix'n'Match: granularities that do not fall with depth (MatFormer)")
def _mixnmatch(problem: Problem, seed: int) -> SamplerAt:
    sampler = MixNMatch(problem, seed)
    return lambda told: sampler
