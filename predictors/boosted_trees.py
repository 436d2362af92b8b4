"""Gradient-boosted regression trees over the columns of genomes, in hundredths of a second.

Friedman 2001, with second-order leaves (Chen and Guestrin 2016). One ensemble for each fold of the
rows, which it does not see: what the ensembles predict of their own folds is a prediction of every
response from others, and their mean is the model. All ensembles grow at once, a level of all their
trees by one matrix product with the table of which row is on which side of which split: every batch
of a search waits for them.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FOLDS = 5
TREES = 48
DEPTH = 3
RATE = 0.15
# Of the columns, each tree may split by so large a share: trees that differ err less together.
COLUMN_SHARE = 0.5
# Rows that a leaf's value is shrunk by, and rows that it needs. A node that no allowed split
# parts so takes the first one: its leaves are shrunk the more.
SHRINKAGE = 1.0
LEAF_ROWS = 2.0
# Splits of a column that has more values: as many, with as many rows between them.
MOST_SPLITS = 8
SMALLEST_VARIANCE = 1e-6
# Rows predicted at once: what is gathered of them stays in the cache.
CHUNK = 256


class BoostedTrees:
    """Ensembles of boosted trees, with the interface of `GaussianProcess`.

    A prediction's variance is the mean squared error of left-out predictions without the noise
    that other models see in the responses, or that of the delete-a-group jackknife (how far the
    ensembles lie apart) where it is larger.

    Attributes:
        left_out_: each response (n,) by the ensemble that did not see it.
        log_density_: mean log density of the responses, with the mean squared error of these.
        noise_std_: noise of a response, as it was told.
    """

    def fit(
        self, x: Floats, y: Floats, extra: Floats | float = 0.0, noise_std: float = 0.0
    ) -> Self:
        """Learn from columns (n, columns) and responses (n,) of unit variance.

        Args:
            x: columns.
            y: responses.
            extra: variance (n,) of the responses that is known; they count for less.
            noise_std: noise that all responses have in common, which trees cannot tell from what
                they miss.
        """
        n, folds = len(x), min(FOLDS, len(x))
        known = np.broadcast_to(extra, n)
        self._columns, self._thresholds = _splits(x)
        low = self._low(x).astype(np.float64)
        fold = np.arange(n) % folds
        counts = np.where(fold == np.arange(folds)[:, None], 0.0, 1.0 / (1.0 + known))
        self._start = (counts @ y) / np.maximum(counts.sum(axis=1), 1e-12)
        predicted = np.repeat(self._start[:, None], n, axis=1)
        rng = np.random.default_rng(0)
        self._chosen = np.zeros((TREES, folds, 2**DEPTH - 1), dtype=np.int64)
        self._values = np.zeros((TREES, folds, 2**DEPTH))
        for tree in range(TREES if low.shape[1] else 0):
            barred = (rng.random((x.shape[1],)) > COLUMN_SHARE)[self._columns]
            leaves = self._grow(tree, low, (y - predicted) * counts, counts, barred)
            predicted += np.take_along_axis(self._values[tree], leaves, axis=1)
        self.left_out_: Floats = predicted[fold, np.arange(n)]
        error = (y - self.left_out_) ** 2
        variance = max(float(np.mean(error - known)), SMALLEST_VARIANCE)
        self.noise_std_ = noise_std
        self._missed = max(variance - noise_std**2, 1e-12)
        told = variance + known
        self.log_density_ = -0.5 * float(np.mean(np.log(2 * np.pi * told) + error / told))
        return self

    def condition(self, x: Floats, y: Floats, extra: Floats | float = 0.0) -> Self:
        """Nothing: trees stay as they were learnt."""
        return self

    def predict(self, x: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the noise-free response, (n,) each."""
        parts = [self._predict(x[i : i + CHUNK]) for i in range(0, max(len(x), 1), CHUNK)]
        each = np.concatenate(parts)
        # The mean square of K deviations is a (K - 1)th of the jackknife's variance.
        jackknife = each.var(axis=1) * (each.shape[1] - 1)
        return each.mean(axis=1), np.sqrt(np.maximum(jackknife, self._missed))

    def _low(self, x: Floats) -> NDArray[np.bool_]:
        """Whether rows (n, columns) are on the lower side of each split, (n, splits)."""
        low: NDArray[np.bool_] = x[:, self._columns] <= self._thresholds
        return low

    def _grow(
        self,
        tree: int,
        low: Floats,
        pull: Floats,
        counts: Floats,
        barred: NDArray[np.bool_],
    ) -> NDArray[np.int64]:
        """Grow a tree of each ensemble; the leaf of each row in each of them, (folds, n).

        Args:
            tree: its number.
            low: sides of the rows, (n, splits).
            pull: what is left to predict, times the counts, (folds, n).
            counts: how much each row counts for, (folds, n).
            barred: splits that this tree may not use, (splits,).
        """
        folds, n = counts.shape
        each, rows = np.arange(folds)[:, None], np.arange(n)
        node, both = np.zeros((folds, n), dtype=np.int64), np.stack([pull, counts])
        for level in range(DEPTH):
            width = 2**level
            held = both[:, :, None] * (node[:, None] == np.arange(width)[:, None])
            left = (held.reshape(-1, n) @ low).reshape(2, folds, width, -1)
            right = held.sum(axis=-1)[..., None] - left
            gain = sum(p**2 / (c + SHRINKAGE) for p, c in (left, right))
            few = np.minimum(left[1], right[1]) < LEAF_ROWS
            gain = np.where(few | barred, -1.0, gain)
            best = gain.argmax(axis=-1)
            self._chosen[tree, :, width - 1 : 2 * width - 1] = best
            node = 2 * node + low[rows, best[each, node]].astype(np.int64)
        leaf = node[:, None] == np.arange(2**DEPTH)[:, None]
        pulls, sizes = ((part[:, None] * leaf).sum(axis=-1) for part in (pull, counts))
        self._values[tree] = RATE * pulls / (sizes + SHRINKAGE)
        return node

    def _predict(self, x: Floats) -> Floats:
        """By each ensemble, (n, folds)."""
        trees, folds, nodes = self._chosen.shape
        found: Floats = np.repeat(self._start[None], len(x), axis=0)
        if not len(self._columns):
            return found
        chosen, values = self._chosen.reshape(-1, nodes), self._values.reshape(-1)
        low = self._low(x).T[chosen]  # (ensembles' trees, nodes, n)
        leaf = np.zeros((len(chosen), len(x)), dtype=np.uint8)
        sides: list[NDArray[np.bool_]] = []
        for level in range(DEPTH):
            side = low[:, 2**level - 1 : 2 ** (level + 1) - 1]
            for taken in sides:
                upper, lower = np.split(side, 2, axis=1)
                side = np.where(taken, lower, upper)
            sides.append(side)
            leaf = 2 * leaf + side[:, 0]
        place = leaf + 2**DEPTH * np.arange(len(chosen))[:, None]
        found += np.take(values, place).reshape(trees, folds, len(x)).sum(axis=0).T
        return found


def _splits(x: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The column and the threshold of every split of columns (n, columns), (splits,) each."""
    columns, thresholds = [], []
    for column, numbers in enumerate(x.T):
        found = np.unique(numbers)
        middles = (found[1:] + found[:-1]) / 2
        if len(middles) > MOST_SPLITS:
            shares = np.arange(1, MOST_SPLITS + 1) / (MOST_SPLITS + 1)
            middles = np.unique(np.quantile(numbers, shares))
        columns += [column] * len(middles)
        thresholds += middles.tolist()
    return np.array(columns, dtype=np.int64), np.array(thresholds)
