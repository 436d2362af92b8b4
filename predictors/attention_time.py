"""Time of fused attention on a known GPU: a roofline corrected by a small network of its tiling.

FlashAttention-2 and -3 (Dao 2023; Shah et al. 2024) give each multiprocessor tiles of queries of
one head, which walk over tiles of keys. So time goes in steps: with waves of query tiles, with
padded keys, with padded head dimensions. A causal mask skips what lies ahead of a query; queries
that share key heads read them once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

from hw_profiles.gpus import Gpu
from predictors.conformal import UpperBound
from predictors.op_time import Array, OpForm, Params, number, numbers, register_form
from predictors.perceptrons import Perceptrons, short

QUERY_TILES, KEY_TILES, HEAD_TILES = (64, 128, 192), (64, 128), (32, 64, 128)
ELEMENT_BYTES = 2.0
# What good kernels reach of each peak.
FLOP_SHARE, BYTE_SHARE = 0.6, 0.8


class Chip(NamedTuple):
    """What a time depends on of a GPU.

    Args:
        cores: streaming multiprocessors.
        flops_per_s: peak of the tensor cores in bf16 (2 FLOPs per MAC).
        bandwidth_bytes_per_s: peak memory rate.
        clock_hz: at which that peak is stated.
        cache_bytes: of the last level; calls that fit are fed from it when they are repeated.
    """

    cores: float
    flops_per_s: float
    bandwidth_bytes_per_s: float
    clock_hz: float
    cache_bytes: float

    @classmethod
    def of(cls, gpu: Gpu) -> Chip:
        """The chip of a GPU whose sheet was read."""
        return cls(
            float(gpu.cores),
            gpu.flops_per_s,
            gpu.bandwidth_bytes_per_s,
            gpu.stated_clock_hz,
            gpu.l2_bytes,
        )

    @property
    def flops_per_cycle(self) -> float:
        """Of one multiprocessor."""
        return self.flops_per_s / self.cores / self.clock_hz


def call_flops(X: Array, causal: Array | bool) -> Array:
    """FLOPs (2 per MAC) of shapes (batch, heads, queries, keys, head_dim), (n, 5) -> (n,)."""
    batch, heads, queries, keys, head_dim = X.T
    seen = np.where(causal, keys - (queries - 1) / 2, keys)
    return np.asarray(4 * batch * heads * queries * seen * head_dim)


def call_bytes(X: Array, kv_heads: Array) -> Array:
    """Bytes read and written by such calls in bf16, each number once, (n,)."""
    batch, heads, queries, keys, head_dim = X.T
    elements = 2 * batch * head_dim * (heads * queries + kv_heads * keys)
    return np.asarray(ELEMENT_BYTES * elements)


@register_form("attention_mlp")
class AttentionMLP(BaseEstimator, RegressorMixin, OpForm):  # type: ignore[misc]
    """Milliseconds of softmax(Q K^T) V for shapes (batch, heads, queries, keys, head_dim).

    Features outside the range of the fit count as the nearest inside, the roofline as it is, and
    the upper bound widens by its own width for every octave of a size above those seen, and of a
    head dimension below (down to 32, to which kernels pad); smaller ones of the other sizes take no
    longer than the smallest. No prediction is below the fastest time measured.

    Args:
        cores, flops_per_s, bandwidth_bytes_per_s: see `Chip`.
        causal: whether these calls skip what lies ahead of a query.
        hidden: units of each of the two hidden layers.
        members: networks whose mean is taken.
        steps: of their training.
        seed: of the initial weights and of the order of rows.

    Attributes:
        floor_ms_: the fastest time seen.
        low_, high_: smallest and largest of each feature seen, (features,).
        largest_: logs (base 2) of the largest of the five sizes, (5,).
        narrowest_: the smallest head dimension seen.
        networks_: the perceptrons.
        bound_: calibrated upper bound, after `calibrate`.
    """

    def __init__(
        self,
        cores: float,
        flops_per_s: float,
        bandwidth_bytes_per_s: float,
        causal: bool = False,
        hidden: int = 64,
        members: int = 1,
        steps: int = 12_000,
        seed: int = 0,
    ) -> None:
        self.cores = cores
        self.flops_per_s = flops_per_s
        self.bandwidth_bytes_per_s = bandwidth_bytes_per_s
        self.causal = causal
        self.hidden = hidden
        self.members = members
        self.steps = steps
        self.seed = seed

    def fit(self, X: Array, y: Array, kv_heads: Array | None = None) -> AttentionMLP:
        """Fit shapes (n, 5) to milliseconds (n,) by Huber loss on the log of the ratio.

        Args:
            kv_heads: key and value heads where queries share them, (n,).
        """
        self.floor_ms_ = float(y.min())
        self.largest_, self.narrowest_ = np.log2(X.max(axis=0)), float(X[:, 4].min())
        inputs = self._inputs(X, kv_heads)
        self.low_, self.high_ = short(inputs.min(axis=0)), short(inputs.max(axis=0))
        target = np.log(y / self._roofline_ms(X, kv_heads))
        self.networks_ = Perceptrons(self.members, self.hidden, self.steps, self.seed)
        self.networks_.fit(inputs, target)
        return self

    def calibrate(self, predicted: Array, measured: Array, coverage: float) -> AttentionMLP:
        """Set the upper bound from predictions of shapes that their fit had not seen."""
        self.bound_ = UpperBound(coverage).fit(predicted, measured)
        return self

    def predict(self, X: Array, kv_heads: Array | None = None) -> Array:
        values = np.clip(self._inputs(X, kv_heads), self.low_, self.high_)
        predicted = self._roofline_ms(X, kv_heads) * np.exp(self.networks_.predict(values))
        return np.maximum(predicted, self.floor_ms_)

    def upper_ratio(self, X: Array, kv_heads: Array | None = None) -> Array:
        beyond = np.maximum(np.log2(X) - self.largest_, 0.0)
        padded = np.maximum(X[:, 4], HEAD_TILES[0])
        beyond[:, 4] += np.maximum(np.log2(self.narrowest_ / padded), 0.0)
        return self.bound_.widened(self.predict(X, kv_heads), beyond.sum(axis=1))

    def to_params(self) -> Params:
        return {
            "cores": float(self.cores),
            "flops_per_s": float(self.flops_per_s),
            "bandwidth_bytes_per_s": float(self.bandwidth_bytes_per_s),
            "causal": float(self.causal),
            "floor_ms": self.floor_ms_,
            "low": self.low_.tolist(),
            "high": self.high_.tolist(),
            "largest": self.largest_.tolist(),
            "narrowest": self.narrowest_,
            **self.networks_.to_params(),
            **self.bound_.to_params(),
        }

    @classmethod
    def from_params(cls, params: Params) -> AttentionMLP:
        form = cls(
            cores=number(params, "cores"),
            flops_per_s=number(params, "flops_per_s"),
            bandwidth_bytes_per_s=number(params, "bandwidth_bytes_per_s"),
            causal=bool(number(params, "causal")),
        )
        form.floor_ms_ = number(params, "floor_ms")
        if not min(form.cores, form.flops_per_s, form.bandwidth_bytes_per_s, form.floor_ms_) > 0:
            raise ValueError("cores, peaks and floor must be positive")
        form.low_, form.high_ = numbers(params, "low"), numbers(params, "high")
        form.largest_ = numbers(params, "largest")
        form.narrowest_ = number(params, "narrowest")
        form.bound_ = UpperBound.from_params(params)
        n_inputs = form._inputs(np.ones((1, 5)), None).shape[1]
        if form.low_.shape != (n_inputs,) or form.high_.shape != (n_inputs,):
            raise ValueError(f"low and high must hold {n_inputs} numbers")
        if form.largest_.shape != (5,):
            raise ValueError("largest must hold one number for each size")
        form.networks_ = Perceptrons.from_params(params, n_inputs)
        return form

    def _peak_ms(self, X: Array, kv_heads: Array | None) -> tuple[Array, Array]:
        """Arithmetic and memory time at the peaks, (n,) each."""
        shared = X[:, 1] if kv_heads is None else kv_heads
        X = np.column_stack([X[:, :4], np.maximum(X[:, 4], HEAD_TILES[0])])
        arithmetic = call_flops(X, self.causal) / self.flops_per_s
        moving = call_bytes(X, shared) / self.bandwidth_bytes_per_s
        return 1e3 * arithmetic, 1e3 * moving

    def _roofline_ms(self, X: Array, kv_heads: Array | None) -> Array:
        arithmetic, moving = self._peak_ms(X, kv_heads)
        return np.asarray(self.floor_ms_ + np.maximum(arithmetic / FLOP_SHARE, moving / BYTE_SHARE))

    def _inputs(self, X: Array, kv_heads: Array | None) -> Array:
        """Logs of sizes, rooflines, waves and paddings, (n, 36)."""
        batch, heads, queries, keys, head_dim = X.T
        shared = heads if kv_heads is None else kv_heads
        arithmetic, moving = self._peak_ms(X, kv_heads)
        floor = self.floor_ms_
        columns = [np.log2(size) for size in (batch, heads, heads / shared, queries, head_dim)]
        columns += [
            np.log2(self._roofline_ms(X, kv_heads)),
            np.log2(arithmetic + floor / 20),
            np.log2(moving + floor / 20),
        ]
        columns += [np.log2(np.ceil(head_dim / tile) * tile / head_dim) for tile in HEAD_TILES]
        for tile in QUERY_TILES:
            alone = batch * heads * np.ceil(queries / tile)
            # FlashAttention-3 puts the queries that share keys into one tile
            packed = batch * shared * np.ceil(queries * heads / shared / tile)
            for tiles in (alone, packed):
                waves = tiles / self.cores
                idle = np.ceil(waves) / np.maximum(waves, 1 / 16)
                columns += [np.clip(np.log2(waves), -8, 14), np.log2(idle)]
            columns.append(np.minimum(np.log2(np.ceil(queries / tile) * tile / queries), 5.0))
        tile_ms = 1e3 * QUERY_TILES[1] * 4 * head_dim * self.cores / self.flops_per_s
        waves = np.ceil(batch * heads * np.ceil(queries / QUERY_TILES[1]) / self.cores)
        for tile in KEY_TILES:
            steps = np.ceil(keys / tile)
            seen = ((steps + 1) / 2 if self.causal else steps) * tile
            columns += [
                np.log2(steps),
                np.log2(floor / 20 + waves * seen * tile_ms),
                np.log2(floor / 20 + steps * tile * tile_ms),
            ]
        return np.column_stack(columns)
