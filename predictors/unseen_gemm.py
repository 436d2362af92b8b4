"""Time of a matrix product on a GPU of which nothing was timed, from its sheet and other devices.

A model of tiles whose factors all GPUs share (`predictors.tile_model`) is fitted to the devices
that were timed and evaluated at the sheet of the one that was not. Where one of them has the same
compute capability, and so runs the same kernels, its own fitted times are taken, scaled by what
the model says of the difference between the two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

from hw_profiles.gpus import Gpu
from predictors.conformal import UpperBound
from predictors.gemm_time import RooflineMLP
from predictors.op_time import Array
from predictors.tile_model import TileModel

Table = tuple[Gpu, Array, Array]
OTHERS_WEIGHT = 0.2  # of a device with other kernels, where one with the same is there
COVERAGE = 0.9
# Software stacks of one device differ by this much (published tables of the A100 and the H200):
# a bound of an unseen device is never narrower.
STACK_SPREAD = 0.06


class UnseenGemm(BaseEstimator, RegressorMixin):  # type: ignore[misc]
    """Milliseconds of y[m, n] = x[m, k] W[k, n] in bf16 for shapes (m, k, n).

    Args:
        gpu: the device that is asked about.
        steps, rows: of the tile model's fits.
        epochs: of the fit of a device with the same kernels.
        seed: of all draws.

    Attributes:
        tiles_: the model of all devices.
        sibling_: the device with the same compute capability, or None.
        sibling_time_: its own fitted times.
        bound_: upper bound, from devices left out in turn.
    """

    def __init__(
        self, gpu: Gpu, steps: int = 300, rows: int = 2000, epochs: int = 300, seed: int = 0
    ) -> None:
        self.gpu = gpu
        self.steps = steps
        self.rows = rows
        self.epochs = epochs
        self.seed = seed

    def fit(self, tables: Sequence[Table]) -> UnseenGemm:
        """Fit to the timings of other devices, (device, shapes (n, 3), milliseconds (n,)) each.

        The upper bound is calibrated on each of them as predicted from the others, and so is as
        wide as a model errs on a device with other kernels. One table alone calibrates itself:
        the bound is then too narrow.
        """
        same = [table for table in tables if table[0].capability == self.gpu.capability]
        same.sort(key=lambda table: abs(math.log(_balance(table[0]) / _balance(self.gpu))))
        self.sibling_ = same[0][0] if same else None
        self.tiles_ = self._tiles(list(tables))
        if same:
            self.sibling_time_ = self._own_time(same[0])
        predicted, measured = [], []
        rng = np.random.default_rng(self.seed)
        for left_out, (gpu, shapes, times) in enumerate(tables):
            others = [t for i, t in enumerate(tables) if i != left_out] or list(tables)
            drawn = rng.permutation(len(times))[: self.rows]
            predicted.append(self._tiles(others).predict(shapes[drawn], gpu))
            measured.append(times[drawn])
        self.bound_ = UpperBound(COVERAGE).fit(np.concatenate(predicted), np.concatenate(measured))
        return self

    def predict(self, X: Array) -> Array:
        """Milliseconds, shape (n,)."""
        times = self.tiles_.predict(X, self.gpu)
        if self.sibling_ is None:
            return times
        return times * self.sibling_time_.predict(X) / self.tiles_.predict(X, self.sibling_)

    def upper_ratio(self, X: Array) -> Array:
        """Upper bound over prediction, at least 1, shape (n,)."""
        return self.bound_.ratio(self.predict(X))

    def _tiles(self, tables: list[Table]) -> TileModel:
        alike = [gpu.capability == self.gpu.capability for gpu, _, _ in tables]
        weights = [1.0 if one or not any(alike) else OTHERS_WEIGHT for one in alike]
        return TileModel(self.steps, self.rows, self.seed).fit(tables, weights)

    def _own_time(self, table: Table) -> RooflineMLP:
        gpu, shapes, times = table
        form = RooflineMLP(
            gpu.cores,
            gpu.flops_per_s,
            gpu.bandwidth_bytes_per_s,
            epochs=self.epochs,
            seed=self.seed,
        )
        return form.fit(shapes, times)


def _balance(gpu: Gpu) -> float:
    """FLOPs for each byte of memory at the peaks."""
    return gpu.flops_per_s / gpu.bandwidth_bytes_per_s
