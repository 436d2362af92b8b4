"""A quantity over a grid of shapes, from the nearest shapes that were measured.

Power and energy of calls next to each other in a table err together: a meter's window is longer
than the time given to one call, clocks drift. Trees that see the readings of a shape's neighbours
along each size, and how far away these are, follow that where features of the shape cannot.
"""

from __future__ import annotations

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor

from predictors.op_time import Array


class NeighbourTrees(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """A positive quantity of rows (sizes..., group, features...).

    Rows whose last size has no measured neighbour are predicted from features alone.

    Args:
        n_sizes: leading columns that are sizes on a grid; the column after them is the group in
            which rows are neighbours.
        max_iter: trees.
        seed: of the trees.

    Attributes:
        grid_: measured logs by axis and by the other sizes.
        filled_: which columns of neighbours hold any.
        near_, far_: trees with and without the neighbours' readings.
    """

    def __init__(self, n_sizes: int = 3, max_iter: int = 300, seed: int = 0) -> None:
        self.n_sizes = n_sizes
        self.max_iter = max_iter
        self.seed = seed

    def fit(self, X: Array, y: Array) -> NeighbourTrees:
        """Fit rows (n, columns) to positive numbers (n,)."""
        logs = np.log(y)
        self.grid_ = [self._lines(X, logs, axis) for axis in range(self.n_sizes)]
        features, neighbours = self._features(X), self._neighbours(X)
        # trees cannot bin a column that is empty throughout
        self.filled_ = ~np.isnan(neighbours).all(axis=0)
        near = np.column_stack([features, neighbours[:, self.filled_]])
        self.near_ = self._trees().fit(near, logs)
        self.far_ = self._trees().fit(features, logs)
        return self

    def predict(self, X: Array) -> Array:
        """The quantity, (n,)."""
        features, neighbours = self._features(X), self._neighbours(X)
        near = self.near_.predict(np.column_stack([features, neighbours[:, self.filled_]]))
        last = neighbours[:, -8:]
        apart = np.isnan(last[:, 0]) & np.isnan(last[:, 2])
        return np.asarray(np.exp(np.where(apart, self.far_.predict(features), near)))

    def _trees(self) -> HistGradientBoostingRegressor:
        return HistGradientBoostingRegressor(
            loss="absolute_error",
            max_iter=self.max_iter,
            max_leaf_nodes=63,
            random_state=self.seed,
        )

    def _features(self, X: Array) -> Array:
        return np.column_stack([np.log2(X[:, : self.n_sizes]), X[:, self.n_sizes :]])

    def _keys(self, X: Array, axis: int) -> list[tuple[float, ...]]:
        others = [i for i in range(self.n_sizes + 1) if i != axis]
        return [tuple(row) for row in X[:, others]]

    def _lines(
        self, X: Array, logs: Array, axis: int
    ) -> dict[tuple[float, ...], tuple[Array, Array]]:
        """Sizes and readings along an axis, ascending, by what is fixed there."""
        lines: dict[tuple[float, ...], list[int]] = {}
        for i, key in enumerate(self._keys(X, axis)):
            lines.setdefault(key, []).append(i)
        made = {}
        for key, rows in lines.items():
            sizes, inverse = np.unique(X[rows, axis], return_inverse=True)
            made[key] = sizes, np.bincount(inverse, logs[rows]) / np.bincount(inverse)
        return made

    def _neighbours(self, X: Array) -> Array:
        """Readings and distances in octaves of the nearest below and above on each axis, two each
        on the last, NaN where there is none; never a row's own, (n, 4 * (sizes + 1))."""
        columns = []
        for axis, lines in enumerate(self.grid_):
            depth = 2 if axis == self.n_sizes - 1 else 1
            found = np.full((len(X), 4 * depth), np.nan)
            for i, key in enumerate(self._keys(X, axis)):
                if key not in lines:
                    continue
                sizes, readings = lines[key]
                size = X[i, axis]
                low, high = np.searchsorted(sizes, size), np.searchsorted(sizes, size, "right")
                for j in range(depth):
                    if low > j:
                        distance = np.log2(size / sizes[low - 1 - j])
                        found[i, 4 * j : 4 * j + 2] = readings[low - 1 - j], distance
                    if high + j < len(sizes):
                        distance = np.log2(sizes[high + j] / size)
                        found[i, 4 * j + 2 : 4 * j + 4] = readings[high + j], distance
            columns.append(found)
        return np.column_stack(columns)
