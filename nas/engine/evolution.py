"""Once-for-all's evolution as an outer search (arXiv:1908.09791; sizes and rates as released).

A population of 100 is drawn; from then on each generation has 50 mutations and 50 crossovers of
the best quarter of a population. Parents stay until better ones come, so the parents of a
generation are the best of all trials before it, and nothing but the trials needs to be kept.

Three things differ. What was evaluated is not proposed again. The released code draws until a
child meets the constraint, which may never end: here the tries are bounded, then children are
led back towards their parents, which meet it. It ranks by accuracy alone; here the best are the
non-dominated first, then those in the least crowded part of their front (Deb et al. 2002).
"""

from __future__ import annotations

import moocore
import numpy as np
from numpy.typing import NDArray
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance

from nas.engine.candidates import Candidates, identity
from nas.engine.problem import Floats, Problem
from nas.engine.samplers import GenomeSampler, SamplerAt, SpaceExhausted, register_sampler
from nas.engine.told import Told
from search_spaces.choices import ChoiceSet, Genomes

POPULATION = 100
PARENTS = 25
MUTATIONS = 50
BLOCK_RATE = 0.1
DEPTH_RATE = 0.1
RESOLUTION_RATE = 0.5
TRIES = 64
"""Children made at once."""
ROUNDS = 4
"""Times that children are made, and then times that the last ones step back to a parent."""


def mutation_blocks(choices: ChoiceSet) -> tuple[NDArray[np.int64], Floats]:
    """The block (genes,) that each gene is redrawn with, and the rate of each block (blocks,).

    Genes of one place, such as `layers.3.heads`, `layers.3.ffn` and the schemes of `layers.3`,
    are a block. A choice that others depend on is a depth, and alone, as is one without a place.
    """
    depths = {choice.active.choice for choice in choices.choices if choice.active is not None}
    index: dict[str, int] = {}
    rates = []
    block = np.empty(len(choices), dtype=np.int64)
    for gene, choice in enumerate(choices.choices):
        place, _, last = choice.name.rpartition(".")
        name = place if place and choice.name not in depths else f"={choice.name}"
        if name not in index:
            index[name] = len(index)
            rate = DEPTH_RATE if choice.name in depths else BLOCK_RATE
            rates.append(RESOLUTION_RATE if last == "resolution" else rate)
        block[gene] = index[name]
    return block, np.array(rates)


def ranking(values: Floats) -> NDArray[np.int64]:
    """Rows from best to worst: by front, then by crowding, then by age.

    Shapes: values (n, k), to be minimised and finite -> (n,).
    """
    if not len(values):
        return np.empty(0, dtype=np.int64)
    front = np.asarray(moocore.pareto_rank(values))
    crowding = np.zeros(len(values))
    for rank in np.unique(front):
        rows = np.flatnonzero(front == rank)
        crowding[rows] = calc_crowding_distance(values[rows])
    return np.lexsort((np.arange(len(values)), -crowding, front))


class OfaEvolution(GenomeSampler):
    """Proposes random genomes first, then children of the best.

    Args:
        problem: what is searched.
        seed: of the study.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        super().__init__(problem, seed)
        self.candidates = Candidates(problem, seed)
        self._block, self._rates = mutation_blocks(problem.choices)

    def propose(self, told: Told) -> NDArray[np.int64]:
        """A random genome in the first generation, a child of the best in all others.

        Raises:
            SpaceExhausted: if no unseen feasible genome was found.
        """
        seen = {identity(genome) for genome in told.genomes}
        generation, place = divmod(len(told), POPULATION)
        rng = self.candidates.rng(8, len(told))
        parents = self._parents(told, generation * POPULATION)
        if len(parents):
            mutates = place < MUTATIONS or len(parents) < 2
            kind = "mutation" if mutates else "crossover"
            found = self._child(parents, mutates, seen, rng)
        else:
            kind, found = "random", self._first(self.problem.choices.sample(TRIES, rng), seen)
        if found is None:
            kind, found = "random", self.candidates.unseen(seen, 9, len(told))
        if found is None:
            raise SpaceExhausted
        self.origin = {"kind": kind, "generation": generation}
        return found

    def _parents(self, told: Told, n: int) -> Genomes:
        """The best of the first `n` trials, (up to 25, genes)."""
        rows = np.flatnonzero(told.complete[:n])
        best: Genomes = told.genomes[rows[ranking(told.values[rows])[:PARENTS]]]
        return best

    def _child(
        self, parents: Genomes, mutates: bool, seen: set[bytes], rng: np.random.Generator
    ) -> NDArray[np.int64] | None:
        """An unseen feasible child; None if none came of a bounded number of tries."""
        choices = self.problem.choices
        active = choices.active(parents)
        for _ in range(ROUNDS):
            first = rng.integers(len(parents), size=TRIES)
            if mutates:
                second = first
                changed = (rng.random((TRIES, len(self._rates))) < self._rates)[:, self._block]
            else:
                second = (first + rng.integers(1, len(parents), size=TRIES)) % len(parents)
                changed = np.zeros((TRIES, len(choices)), dtype=bool)
            # A gene that only one parent has comes from that one; one that none has is drawn.
            takes = rng.random((TRIES, len(choices))) < 0.5
            takes = np.where(active[first] == active[second], takes, active[second])
            children = np.where(takes, parents[second], parents[first])
            drawn = changed | ~(active[first] | active[second])
            children = np.where(drawn, rng.integers(0, choices.sizes, children.shape), children)
            children = choices.canonical(children)
            found = self._first(children, seen)
            if found is not None:
                return found
        for _ in range(ROUNDS):
            back = (rng.random((TRIES, len(self._rates))) < 0.5)[:, self._block]
            children = choices.canonical(np.where(back, parents[first], children))
            found = self._first(children, seen)
            if found is not None:
                return found
        return None

    def _first(self, genomes: Genomes, seen: set[bytes]) -> NDArray[np.int64] | None:
        """The first unseen genome that meets the budgets."""
        for row in np.flatnonzero(self.problem.feasible(genomes)):
            if identity(genomes[row]) not in seen:
                return np.asarray(genomes[row])
        return None


@register_sampler("ofa-evolution", "once-for-all's evolution, population 100")
def _ofa_evolution(problem: Problem, seed: int) -> SamplerAt:
    sampler = OfaEvolution(problem, seed)
    return lambda told: sampler
