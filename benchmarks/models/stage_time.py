"""Time of a network of stages of like blocks, from each stage's choices.

A stage repeats one inverted bottleneck (arXiv:1801.04381): its first block changes width and
resolution, the others keep them. As widths and resolutions are the space's and not the network's,
time is near a sum over stages of a first block and the repeated ones, each a cost of its own
choices; trees learn what is left, such as what the sum does not know of overlap.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.utils.validation import check_is_fitted, validate_data

Floats = NDArray[np.float64]

# A stage's columns: expansion, kernel size, blocks, squeeze-and-excitation or not.
PER_STAGE = 4
TURNS = 10
# Relative errors beyond this count by their size, not its square; some timings are 10 % off.
HUBER = 0.005
WORK_RIDGE = 1e-3
CELL_RIDGE = 1.0
# A correction by the trees is at most this log-ratio.
CORRECTION = 0.1


class StageTime(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Time of a network of stages, by a sum of block costs and trees on what it leaves.

    The costs of a block are linear in what it computes (expansion, depthwise convolution, squeeze
    and excitation), plus a correction for each combination of choices that was seen, drawn to 0:
    a combination that was not seen costs what its work says.

    Args:
        trees: of the correction.
        seed: of the trees.

    Attributes:
        cells_: the combinations seen in each stage, of (expansion, kernel, squeeze).
        coef_: cost of each column, in the unit of the times.
    """

    def __init__(self, trees: int = 300, seed: int = 0) -> None:
        self.trees = trees
        self.seed = seed

    def fit(self, X: Floats, y: Floats) -> Self:
        """Fit to networks (n, 4 * stages) and their times (n,), all positive.

        Raises:
            ValueError: if the columns are not four a stage, or a time is not positive.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        if X.shape[1] % PER_STAGE:
            raise ValueError(f"{X.shape[1]} columns are not {PER_STAGE} a stage")
        if not np.all(y > 0):
            raise ValueError("times must be positive")
        self.cells_ = [np.unique(stage[:, [0, 1, 3]], axis=0) for stage in _stages(X)]
        self.low_ = float(np.min(y)) / 2
        columns, ridge = self._columns(X)
        self.coef_ = _robust_least_squares(columns, np.asarray(y, np.float64), ridge)
        left = np.log(y / self._sum(X))
        self.trees_ = HistGradientBoostingRegressor(
            loss="absolute_error",
            max_iter=self.trees,
            learning_rate=0.05,
            max_leaf_nodes=15,
            early_stopping=False,
            random_state=self.seed,
        ).fit(self._inputs(X), left)
        return self

    def predict(self, X: Floats) -> Floats:
        """Times (n,) of networks (n, 4 * stages)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        correction = np.clip(self.trees_.predict(self._inputs(X)), -CORRECTION, CORRECTION)
        return np.asarray(self._sum(X) * np.exp(correction))

    def _sum(self, X: Floats) -> Floats:
        return np.maximum(self._columns(X)[0] @ self.coef_, self.low_)

    def _inputs(self, X: Floats) -> Floats:
        return np.column_stack([X, np.log(self._sum(X))])

    def _columns(self, X: Floats) -> tuple[Floats, Floats]:
        """Work and cells of every stage's first and further blocks, and the ridge of each."""
        columns, ridge = [np.ones(len(X))], [WORK_RIDGE]
        for stage, cells in zip(_stages(X), self.cells_, strict=True):
            expansion, kernel, blocks, squeeze = stage.T
            depthwise = expansion * kernel**2
            work = [np.ones(len(X)), expansion, depthwise, squeeze, squeeze * expansion]
            seen = (stage[:, None, [0, 1, 3]] == cells).all(axis=2).astype(np.float64)
            for count in (np.minimum(blocks, 1), np.maximum(blocks - 1, 0)):
                columns += [count * part for part in work]
                columns += list((count[:, None] * seen).T)
                ridge += [WORK_RIDGE] * len(work) + [CELL_RIDGE] * len(cells)
        return np.column_stack(columns), np.array(ridge)


def _stages(X: Floats) -> list[Floats]:
    return [X[:, i : i + PER_STAGE] for i in range(0, X.shape[1], PER_STAGE)]


def _robust_least_squares(columns: Floats, times: Floats, ridge: Floats) -> Floats:
    """Coefficients with the least Huber loss of relative errors."""
    relative = columns / times[:, None]
    size = np.sqrt(np.mean(relative**2, axis=0))
    size = np.where(size > 0, size, 1.0)
    relative = relative / size
    weights = np.ones(len(times))
    for _ in range(TURNS):
        weighted = relative * np.sqrt(weights)[:, None]
        gram = weighted.T @ weighted + np.diag(ridge)
        coefficients = np.linalg.solve(gram, weighted.T @ np.sqrt(weights))
        error = np.abs(relative @ coefficients - 1)
        weights = np.minimum(1.0, HUBER / np.maximum(error, 1e-9))
    return np.asarray(coefficients / size)
