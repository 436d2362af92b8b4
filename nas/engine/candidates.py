"""Feasible genomes: enumerated where the space is small, drawn and evolved where it is not."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nas.engine.inner import search
from nas.engine.problem import Floats, Problem
from search_spaces.choices import ChoiceSet, Genomes

ENUMERATE = 20_000
"""Genomes of a space that is made a list, at most."""
MOST_LISTED = 100_000
"""Of a list that are looked at, at most: predicting so many takes a second."""
ROUND = 2_048
MAX_ROUNDS = 8
DESIGN_POOL = 4_096
NEAREST = 12
"""First number of the generator that draws these lots, used for no other."""
RIVALS = 24
"""Genomes of a stratum that compete for one place of the design by their distance to it."""


def identity(genome: NDArray[np.int64]) -> bytes:
    """Identity of a canonical genome (genes,) inside one run."""
    return np.ascontiguousarray(genome, dtype=np.int64).tobytes()


def identities(genomes: Genomes) -> list[bytes]:
    """Identity of each of many canonical genomes (n, genes)."""
    rows = np.ascontiguousarray(genomes, dtype=np.int64)
    found: list[bytes] = rows.view(f"V{8 * rows.shape[1]}").ravel().tolist()
    return found


def enumerate_all(choices: ChoiceSet) -> Genomes:
    """Every canonical genome once, (cardinality, genes)."""
    genomes = np.zeros((1, len(choices)), dtype=np.int64)
    for gene, size in enumerate(choices.sizes):
        # A condition names an earlier gene, so activity is settled when a gene's turn comes.
        repeats = np.where(choices.active(genomes)[:, gene], size, 1)
        value = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        genomes = np.repeat(genomes, repeats, axis=0)
        genomes[:, gene] = value
    return genomes


def corners(choices: ChoiceSet) -> Genomes:
    """Largest and smallest genomes, each under every uniform setting of the unordered genes."""
    unordered = np.array([not c.ordinal for c in choices.choices])
    rows = [choices.extreme(largest=True)[0], choices.extreme(largest=False)[0]]
    for value in range(int(choices.sizes[unordered].max(initial=0))):
        for base in (choices.sizes - 1, np.zeros_like(choices.sizes)):
            rows.append(np.where(unordered, np.minimum(value, choices.sizes - 1), base))
    return unique(choices.canonical(np.stack(rows)))


def spread(choices: ChoiceSet, n: int, rng: np.random.Generator) -> Genomes:
    """`n` canonical genomes, half uniform, half of one level throughout.

    Uniform draws of many genes are all of middling size. A genome of one level has all ordinal
    genes near one quantile and, half of the time, one setting of all the unordered ones.
    """
    uniform = choices.sample(n - n // 2, rng)
    level = np.clip(
        rng.uniform(-0.1, 1.1, (n // 2, 1)) + rng.normal(0, 0.15, (n // 2, len(choices))), 0, 0.999
    )
    ordered = np.array([c.ordinal for c in choices.choices])
    same = rng.random((n // 2, 1)) < 0.5
    mixed = np.where(same, rng.random((n // 2, 1)), rng.random((n // 2, len(choices))))
    levelled = (np.where(ordered, level, mixed) * choices.sizes).astype(np.int64)
    return np.concatenate([uniform, choices.canonical(levelled)])


def unique(genomes: Genomes) -> Genomes:
    """Distinct rows in order of first appearance."""
    first: dict[bytes, int] = {}
    for row, key in enumerate(identities(genomes)):
        first.setdefault(key, row)
    return genomes[list(first.values())]


def neighbours(choices: ChoiceSet, genomes: Genomes) -> Genomes:
    """Distinct canonical genomes that differ from one of these in the value of one gene.

    An ordinal gene goes one step up or down, any other takes each of its other values. A gene that
    becomes active by that is at its first value.
    """
    steps = [
        (gene, shift, choice.ordinal)
        for gene, choice in enumerate(choices.choices)
        for shift in ((-1, 1) if choice.ordinal else range(1, len(choice.values)))
    ]
    gene, shift, ordinal = np.array(steps, dtype=np.int64).reshape(-1, 3).T
    value = genomes[:, gene].T + shift[:, None]  # (steps, n)
    size = choices.sizes[gene, None]
    inside = (ordinal[:, None] == 0) | ((value >= 0) & (value < size))
    step, row = np.nonzero(inside & choices.active(genomes)[:, gene].T)
    moved = genomes[row]
    moved[np.arange(len(moved)), gene[step]] = (value % size)[step, row]
    return unique(choices.canonical(moved))


class Candidates:
    """Draws of feasible genomes of one problem.

    Args:
        problem: what is searched.
        seed: of the study; every draw is a function of it and of a number that the caller gives.
    """

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.seed = seed

    def rng(self, *numbers: int) -> np.random.Generator:
        """A generator that depends on the seed and the numbers alone."""
        return np.random.default_rng([self.seed, *numbers])

    @cached_property
    def every_feasible(self) -> Genomes | None:
        """All feasible genomes, where the space is a list or small enough to be made one."""
        genomes = self.problem.listed
        if genomes is None:
            if self.problem.choices.cardinality() > ENUMERATE:
                return None
            genomes = enumerate_all(self.problem.choices)
        return genomes[self.problem.feasible(genomes)]

    def feasible(self, n: int, rng: np.random.Generator) -> Genomes:
        """Up to `n` distinct feasible genomes, (m, genes); none if none was found.

        Where draws rarely meet the budgets, pymoo spreads the least violating ones over cost.
        """
        if self.every_feasible is not None:
            return self.every_feasible[rng.permutation(len(self.every_feasible))[:n]]
        choices, problem = self.problem.choices, self.problem
        drawn = corners(choices)
        found = drawn[problem.feasible(drawn)]
        for _ in range(MAX_ROUNDS):
            batch = spread(choices, ROUND, rng)
            excess = problem.violation(batch)
            found = unique(np.concatenate([found, batch[excess <= 0]]))
            drawn = np.concatenate([drawn, batch[np.argsort(excess, kind="stable")[:16]]])
            if len(found) >= n:
                break
        if len(found) < min(n, ROUND // 8):

            def both_ends(genomes: Genomes) -> tuple[Floats, Floats]:
                cost = problem.known_costs(genomes)
                return np.concatenate([cost, -cost], axis=1), problem.violation(genomes)

            n_objectives = max(2 * len(problem.known), 1)
            evolved = search(
                choices,
                both_ends if problem.known else lambda g: (np.zeros((len(g), 1)), both_ends(g)[1]),
                n_objectives,
                start=unique(np.concatenate([found[:64], drawn])),
                seed=int(rng.integers(2**31)),
            )
            found = unique(np.concatenate([found, evolved.genomes[evolved.violation <= 0]]))
        return found[rng.permutation(len(found))[:n]]

    def unseen(self, seen: Collection[bytes], *numbers: int) -> NDArray[np.int64] | None:
        """A random feasible genome not in `seen`; None where none is left or none was found."""
        rng = self.rng(*numbers)
        n = ROUND if self.every_feasible is None else len(self.every_feasible)
        drawn = self.feasible(n, rng)
        for genome, key in zip(drawn, identities(drawn), strict=True):
            if key not in seen:
                return np.asarray(genome, dtype=np.int64)
        return None

    def nearest(
        self, genome: NDArray[np.int64], seen: Collection[bytes]
    ) -> NDArray[np.int64] | None:
        """Of a list, the feasible genome not in `seen` that has most genes of one; None if none is.

        Of several as near a lot decides: a list may be sorted by what is sought.
        """
        every = self.every_feasible
        assert every is not None  # it is a list
        lots = self.rng(NEAREST, *map(int, genome)).random(len(every))
        for row in np.lexsort((lots, (every != genome).sum(axis=1))):
            if identity(every[row]) not in seen:
                return np.asarray(every[row])
        return None

    def design(self, n: int) -> Genomes:
        """The first trials: largest feasible, smallest feasible, and a spread over cost between.

        The feasible draws are sorted by the first known cost and cut into strata, halfway between
        equal in number and equal in width; each gives the genome that is farthest from those
        chosen already, out of a few.
        """
        rng = self.rng(0)
        if self.every_feasible is not None:
            pool = self.feasible(MOST_LISTED, rng)
        else:
            ends = corners(self.problem.choices)
            ends = ends[self.problem.feasible(ends)]
            pool = unique(np.concatenate([self.feasible(DESIGN_POOL, rng), ends]))
        if len(pool) <= n:
            return pool
        costs = self.problem.known_costs(pool)
        size = costs[:, 0] if costs.shape[1] else self._size(pool)
        order = np.argsort(size, kind="stable")
        pool, size = pool[order], size[order]
        code = self.problem.choices.one_hot(pool)
        rank = np.linspace(0, 1, len(pool))
        place = (rank + (size - size[0]) / max(size[-1] - size[0], 1e-300)) / 2
        edges = np.searchsorted(place, np.linspace(0, 1, n - 1))
        chosen = [len(pool) - 1, 0]
        for low, high in pairwise(edges):
            stratum = np.setdiff1d(np.arange(low, high), chosen)
            if not len(stratum):
                stratum = np.setdiff1d(np.arange(len(pool)), chosen)
            rivals = rng.permutation(stratum)[:RIVALS]
            distance = np.abs(code[rivals, None] - code[None, chosen]).sum(axis=2).min(axis=1)
            chosen.append(int(rivals[np.argmax(distance)]))
        # Strata in random order: a study cut short has still seen all sizes.
        mixed = np.concatenate([[0, 1], 2 + rng.permutation(len(chosen) - 2)])
        picked: Genomes = pool[np.array(chosen)[mixed]]
        return picked

    def _size(self, genomes: Genomes) -> Floats:
        steps = np.maximum(self.problem.choices.sizes - 1, 1)
        sizes: Floats = (genomes / steps).sum(axis=1)
        return sizes
