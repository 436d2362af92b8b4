"""What a candidate must reach to be on the front, by what is known of it before it is evaluated."""

from __future__ import annotations

import numpy as np

from nas.engine.problem import Floats, Problem


class Goals:
    """The front so far, asked for the least good value that joins it at given costs.

    Args:
        problem: with one costly objective; with none or several there is no goal.
    """

    def __init__(self, problem: Problem) -> None:
        self._known = np.array([o.known for o in problem.objectives], dtype=bool)
        self._single = len(problem.costly) == 1
        self._signs = problem.signs
        self._front: Floats = np.empty((0, len(problem.objectives)))

    def add(self, values: Floats) -> None:
        """Take the objectives (k,) of a feasible, wholly evaluated trial, in their directions."""
        new = values * self._signs
        if not (self._front <= new).all(axis=1).any():
            kept = self._front[~(new <= self._front).all(axis=1)]
            self._front = np.concatenate([kept, new[None]])

    def of(self, values: Floats) -> float | None:
        """The costly value of the best trial that costs no more in anything; None without one.

        What is worse than it is dominated, and what is as good or better is not.

        Args:
            values: known objectives (k,) of a candidate; the costly one is not looked at.
        """
        costs = (values * self._signs)[self._known]
        rivals = self._front[(self._front[:, self._known] <= costs).all(axis=1)]
        if not self._single or not len(rivals):
            return None
        best = rivals[:, ~self._known].min()
        return float(best * self._signs[~self._known][0])
