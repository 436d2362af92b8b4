"""Time of a matrix product on a GPU of which nothing was timed, from its sheet and other devices.

A model of tiles whose factors all GPUs share (`predictors.tile_model`) is fitted to the devices
that were timed and evaluated at the sheet of the one that was not. Where one of them has the same
compute capability, and so runs the same kernels, its own fitted times are taken, scaled by what
the model says of the difference between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

from hw_profiles.gpus import Gpu
from predictors.conformal import UpperBound
from predictors.gemm_time import QuantizedGemm, RooflineMLP
from predictors.op_time import Array, OpForm, Params, number, numbers, register_form
from predictors.tile_model import PRIOR, TileModel

Table = tuple[Gpu, Array, Array]
OTHERS_WEIGHT = 0.2  # of a device with other kernels, where one with the same is there
COVERAGE = 0.9
# Log of what a bound allows for the software alone. Of two stacks (public tables) nine products in
# ten are slower in one by at most 0.03 and 0.07 on the A100, 0.06 and 0.17 on the H200, either way.
STACK_ALLOWANCE = 0.1
SIZES = tuple(f.name for f in fields(Gpu) if f.type in ("float", "int"))
LARGEST = 1e24  # of a figure of a GPU
UNITS = ("cores", "l2_bytes", "clock_hz", "flops_per_s", "bandwidth_bytes_per_s")


@register_form("unseen_gemm")
class UnseenGemm(BaseEstimator, RegressorMixin, OpForm):  # type: ignore[misc]
    """Milliseconds of y[m, n] = x[m, k] W[k, n] in bf16 for shapes (m, k, n).

    Args:
        gpu: the device that is asked about.
        steps, rows: of the tile model's fits.
        sibling_steps: of the fit of a device with the same kernels.
        seed: of all draws.

    Attributes:
        tiles_: the model of all devices.
        sibling_: the nearest device of the same compute capability, or None.
        sibling_time_: its own fitted times.
        bound_: upper bound, from devices left out in turn.
        bound_share_: how much of it holds here, as a share of the log: 1 without a sibling.
        left_out_: milliseconds predicted and measured of the devices left out in turn, (n,) each.
    """

    def __init__(
        self,
        gpu: Gpu,
        steps: int = 300,
        rows: int = 2000,
        sibling_steps: int = 12_000,
        seed: int = 0,
    ) -> None:
        self.gpu = gpu
        self.steps = steps
        self.rows = rows
        self.sibling_steps = sibling_steps
        self.seed = seed

    def fit(self, tables: Sequence[Table]) -> UnseenGemm:
        """Fit to the timings of other devices, (device, shapes (n, 3), milliseconds (n,)) each.

        The upper bound is calibrated on each of them as predicted from the others, with other
        kernels as a rule, so it is wide. Beside a sibling only the difference of the two sheets is
        extrapolated: the bound shrinks as they are nearer than the devices left out were to the
        nearest of the others, down to what software stacks differ by. One table alone calibrates
        itself, and its bound is too narrow.

        Raises:
            ValueError: if there is no table.
        """
        if not tables:
            raise ValueError("there must be a table of at least one device")
        same = [table for table in tables if table[0].capability == self.gpu.capability]
        self.tiles_ = self._tiles(list(tables), self.gpu)
        self.sibling_ = None
        if same:
            nearest = min(same, key=lambda table: _distance(table[0], self.gpu))
            self.sibling_ = nearest[0]
            self.sibling_time_ = self._own_time(nearest)
        predicted, logs, distances = [], [], []
        rng = np.random.default_rng(self.seed)
        for left_out, (gpu, shapes, times) in enumerate(tables):
            others = [t for i, t in enumerate(tables) if i != left_out] or list(tables)
            drawn = rng.permutation(len(times))[: self.rows]
            predicted.append(self._tiles(others, gpu).predict(shapes[drawn], gpu))
            logs.append(np.log(times[drawn] / predicted[-1]))
            distances.append(min(_distance(gpu, other) for other, _, _ in others))
        times, errors = np.concatenate(predicted), np.concatenate(logs)
        # of so few devices it is chance which come out slower than predicted: either sign is likely
        self.left_out_ = times, times * np.exp(errors)
        signs = rng.choice([-1.0, 1.0], len(errors))
        self.bound_ = UpperBound(COVERAGE).fit(times, times * np.exp(signs * errors))
        self.bound_share_ = 1.0
        if self.sibling_ is not None:
            usual = max(float(np.mean(distances)), 1e-9)
            self.bound_share_ = round(min(1.0, _distance(self.sibling_, self.gpu) / usual), 4)
            self.sibling_time_.bound_ = self.bound_
        return self

    def asked_of(self, gpu: Gpu) -> UnseenGemm:
        """The same fit, asked about another device with other kernels than any that was timed.

        Raises:
            ValueError: if this fit rests on a device with the same kernels as its own.
        """
        if self.sibling_ is not None:
            raise ValueError("this fit is that of one device's kernels")
        return self._moved(gpu, None, None, 1.0)

    def at_precision(self, donor: Gpu, donor_time: RooflineMLP) -> UnseenGemm:
        """Products of another precision: as a device has them on which they were timed.

        Its times are scaled by what the model says of 16-bit products on the two devices. The bound
        is this fit's own beside a device with the same kernels, else the whole one.
        """
        share = self.bound_share_ if donor == self.sibling_ else 1.0
        return self._moved(self.gpu, donor, donor_time, share)

    def _moved(
        self, gpu: Gpu, sibling: Gpu | None, sibling_time: RooflineMLP | None, share: float
    ) -> UnseenGemm:
        form = UnseenGemm(gpu, self.steps, self.rows, self.sibling_steps, self.seed)
        form.tiles_, form.bound_, form.bound_share_ = self.tiles_, self.bound_, share
        if hasattr(self, "left_out_"):
            form.left_out_ = self.left_out_
        form.sibling_ = sibling
        if sibling_time is not None:
            form.sibling_time_ = sibling_time
        return form

    def predict(self, X: Array) -> Array:
        times = self.tiles_.predict(X, self.gpu)
        if self.sibling_ is None:
            return times
        return np.asarray(
            times * self.sibling_time_.predict(X) / self.tiles_.predict(X, self.sibling_)
        )

    def upper_ratio(self, X: Array) -> Array:
        whole = np.log(self.bound_.ratio(self.predict(X)))
        if self.sibling_ is None:
            return np.asarray(np.exp(whole))
        return np.asarray(np.exp(np.minimum(self.bound_share_ * whole + STACK_ALLOWANCE, whole)))

    def to_params(self) -> Params:
        params: Params = {"factors": list(self.tiles_.factors_.values()), **_numbers_of(self.gpu)}
        params |= self.bound_.to_params() | {"bound_share": self.bound_share_}
        if self.sibling_ is not None:
            near = self.sibling_time_.to_params() | _numbers_of(self.sibling_)
            params |= {f"sibling_{name}": value for name, value in near.items()}
        return params

    @classmethod
    def from_params(cls, params: Params) -> UnseenGemm:
        form = cls(_gpu_of(params))
        form.tiles_ = TileModel()
        form.tiles_.factors_ = dict(zip(PRIOR, numbers(params, "factors").tolist(), strict=True))
        form.bound_ = UpperBound.from_params(params)
        form.bound_share_ = number(params, "bound_share")
        prefix = "sibling_"
        near = {key[len(prefix) :]: v for key, v in params.items() if key.startswith(prefix)}
        form.sibling_ = _gpu_of(near) if near else None
        if near:
            form.sibling_time_ = RooflineMLP.from_params(near)
        return form

    def _tiles(self, tables: list[Table], target: Gpu) -> TileModel:
        alike = [gpu.capability == target.capability for gpu, _, _ in tables]
        weights = [1.0 if one or not any(alike) else OTHERS_WEIGHT for one in alike]
        return TileModel(self.steps, self.rows, self.seed).fit(tables, weights)

    def _own_time(self, table: Table) -> RooflineMLP:
        gpu, shapes, times = table
        form = RooflineMLP(
            gpu.cores,
            gpu.flops_per_s,
            gpu.bandwidth_bytes_per_s,
            steps=self.sibling_steps,
            seed=self.seed,
        )
        return form.fit(shapes, times)


@register_form("quantized_unseen_gemm")
class QuantizedUnseenGemm(QuantizedGemm):
    """The same with activations quantized first, by one fused kernel."""

    product_form = UnseenGemm


def _distance(a: Gpu, b: Gpu) -> float:
    """Between two sheets: the length of the vector of their log ratios."""
    logs = [np.log(getattr(a, name) / getattr(b, name)) for name in UNITS]
    return float(np.linalg.norm(logs))


def _numbers_of(gpu: Gpu) -> Params:
    return {f"gpu_{name}": float(getattr(gpu, name)) for name in SIZES}


def _gpu_of(params: Params) -> Gpu:
    sizes = {name: number(params, f"gpu_{name}") for name in SIZES}
    if any(not 1 <= value <= LARGEST for value in sizes.values()):
        raise ValueError(f"the figures of a GPU must be from 1 to {LARGEST:g}")
    return Gpu(name="", **sizes)  # type: ignore[arg-type]
