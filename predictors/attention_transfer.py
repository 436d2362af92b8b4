"""Time of fused attention on a GPU that was not timed, from its sheet and other GPUs' times.

Everything is counted in what a GPU has: cycles for launches and waves, its tensor peak for tiles,
its bandwidth for what does not fit its cache. A non-negative fit over the other GPUs gives the
factors, and small trees over the shape alone what these leave, so that nothing in them can tell
one GPU from another.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor

from predictors.attention_time import Chip, call_bytes
from predictors.op_time import Array

QUERY_TILE, KEY_TILE, HEAD_TILE = 128, 64, 32
CACHE_BYTES_PER_CYCLE = 64.0  # of one multiprocessor
# Tensor cores of this many FLOPs a cycle and up run FlashAttention-3, others its forerunner.
ASYNCHRONOUS_FLOPS = 4000.0
OTHER_KERNEL = 0.05  # weight in the trees of a GPU that runs the other kernel
N_TERMS = 6
MOST_LAUNCH_RATIO = 2.0


class AttentionTransfer(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Milliseconds of calls on any chip.

    Rows of X are (batch, heads, queries, keys, head_dim, kv_heads, causal).

    Args:
        chip: the GPU to predict for.
        max_iter: trees of the correction.
        seed: of the trees.

    Attributes:
        coef_: factors of the terms, by causal or not.
        trees_: the correction of the log of the time.
    """

    def __init__(self, chip: Chip, max_iter: int = 200, seed: int = 0) -> None:
        self.chip = chip
        self.max_iter = max_iter
        self.seed = seed

    def fit(self, X: Array, y: Array, chips: list[Chip]) -> AttentionTransfer:
        """Fit on calls (n, 7), milliseconds (n,) and the chip of every row.

        Calls of the other kind (causal or not) on the very chip count like those of other GPUs.
        """
        kind = X[:, 6] > 0
        distinct = sorted(set(chips))
        index = np.array([distinct.index(chip) for chip in chips])
        own = np.array([chip == self.chip for chip in distinct])[index]
        terms, columns = np.empty((len(X), N_TERMS)), np.empty((len(X), 9))
        weight = np.empty(len(X))
        for i, chip in enumerate(distinct):
            rows = index == i
            terms[rows], columns[rows] = _terms(X[rows], chip), _columns(X[rows], chip)
            same = _is_asynchronous(chip) == _is_asynchronous(self.chip)
            weight[rows] = (1.0 if same else OTHER_KERNEL) / rows.sum()
        rough = np.empty(len(X))
        factors: dict[bool, dict[bool, Array]] = {True: {}, False: {}}
        for mine in (True, False):
            for causal in (True, False):
                rows = (own == mine) & (kind == causal)
                if rows.any():
                    balance = 1.0 / np.bincount(index[rows])[index[rows]]
                    coef = _relative_nnls(terms[rows], y[rows], np.sqrt(balance))
                    factors[mine][causal] = coef
                    rough[rows] = terms[rows] @ coef
        self.coef_ = _combined(factors[True], factors[False])
        self.trees_ = HistGradientBoostingRegressor(
            loss="absolute_error",
            max_iter=self.max_iter,
            max_leaf_nodes=8,
            min_samples_leaf=min(40, max(2, len(X) // 50)),
            random_state=self.seed,
        ).fit(columns, np.log(y / rough), sample_weight=weight / weight.mean())
        return self

    def predict(self, X: Array) -> Array:
        """Milliseconds on the chip, (n,)."""
        rough = self._rough_ms(_terms(X, self.chip), X[:, 6] > 0)
        return np.asarray(rough * np.exp(self.trees_.predict(_columns(X, self.chip))))

    def _rough_ms(self, terms: Array, causal: NDArray[np.bool_]) -> Array:
        # a kind without any row takes the other's factors
        first = next(iter(self.coef_.values()))
        full, masked = self.coef_.get(False, first), self.coef_.get(True, first)
        return np.where(causal, terms @ masked, terms @ full)


def _combined(own: dict[bool, Array], others: dict[bool, Array]) -> dict[bool, Array]:
    """Factors of the chip: its own by causal or not, else the others' with its own launches.

    How long launches and waves take differs from GPU to GPU more than the clock tells, but alike
    for both kinds.
    """
    combined = others | own
    for causal in others.keys() - own.keys():
        if (not causal) in own and (not causal) in others:
            ratio = own[not causal][0] / max(others[not causal][0], 1e-9)
            scale = np.clip(ratio, 1 / MOST_LAUNCH_RATIO, MOST_LAUNCH_RATIO)
            combined[causal] = others[causal] * np.where(np.arange(N_TERMS) < 2, scale, 1.0)
    return combined


def _is_asynchronous(chip: Chip) -> bool:
    return chip.flops_per_cycle >= ASYNCHRONOUS_FLOPS


def _terms(X: Array, chip: Chip) -> Array:
    """Milliseconds: launch, waves, tiles of whole and of partial waves, memory, cache, (n, 6)."""
    batch, heads, queries, keys, head_dim, kv_heads, causal = X.T
    tiles = batch * heads * np.ceil(queries / QUERY_TILE) / chip.cores
    waves = np.ceil(tiles)
    padded = np.ceil(keys / KEY_TILE) * KEY_TILE
    seen = np.where(causal > 0, np.minimum(padded, (padded + QUERY_TILE) / 2), padded)
    # where every tile has a multiprocessor of its own, the one that sees all keys decides
    longest = np.where(tiles <= 1, padded, seen)
    width = np.ceil(head_dim / HEAD_TILE) * HEAD_TILE
    key_cycles = QUERY_TILE * width * 4 / chip.flops_per_cycle
    moved = call_bytes(X[:, :5], kv_heads)
    missed = np.clip((moved / chip.cache_bytes - 0.4) / 0.6, 0, 1)
    cycles = np.column_stack(
        [
            np.full(len(X), 1e4),
            waves * 1e3,
            waves * longest * key_cycles,
            np.maximum(tiles, 1) * seen * key_cycles,
            missed * moved / chip.bandwidth_bytes_per_s * chip.clock_hz,
            moved / chip.cores / CACHE_BYTES_PER_CYCLE,
        ]
    )
    return np.asarray(1e3 * cycles / chip.clock_hz)


def _columns(X: Array, chip: Chip) -> Array:
    """What the trees see: shapes, and waves of the chip's multiprocessors, (n, 9)."""
    batch, heads, queries, _, head_dim, kv_heads, causal = X.T
    tiles = batch * heads * np.ceil(queries / QUERY_TILE) / chip.cores
    return np.column_stack(
        [
            np.log2(queries),
            np.log2(head_dim),
            np.log2(heads / kv_heads),
            np.clip(np.log2(tiles), -7, 5),
            np.log2(np.ceil(tiles) / np.maximum(tiles, 1 / 8)),
            causal,
            np.log2(np.ceil(head_dim / 64) * 64 / head_dim),
            np.minimum(np.log2(np.ceil(queries / QUERY_TILE) * QUERY_TILE / queries), 4.0),
            np.minimum(np.log2(batch), 5.0),
        ]
    )


def _relative_nnls(terms: Array, y: Array, weight: Array) -> Array:
    """Non-negative least squares on relative errors, reweighted towards absolute ones."""
    weights = weight / weight.mean() / y
    for _ in range(12):
        coef, _ = nnls(terms * weights[:, None], y * weights)
        residual = np.abs(terms @ coef / y - 1.0)
        weights = weight / weight.mean() / y / np.sqrt(np.maximum(residual, 0.05))
    return np.asarray(coef)
