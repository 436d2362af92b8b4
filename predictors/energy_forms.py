"""Energy as power times the predicted latency, for devices whose networks were not metered.

Watts times milliseconds are millijoules. An upper bound multiplies the bound of the power with that
of the latency: for errors of one shape the quantile of a sum of logs is at most the sum of their
quantiles, whether they err together or apart, so that it holds at least as often as either.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hw_profiles.op import KINDS, PRECISIONS, Op
from hw_profiles.profile import DeviceProfile, NetworkModel
from predictors.energy import ENERGY_FORMS, EnergyPredictor
from predictors.latency import latency_predictor
from predictors.op_time import Array, number
from predictors.power import PowerModel, attention_load, product_load

LEAST_MS = 1e-6


@ENERGY_FORMS.register("constant_power")
class ConstantPower(EnergyPredictor):
    """One power under load, for boards of which only a sheet or one reading is known.

    Parameters: `power_w` while a network runs, `upper_w` its upper bound.
    """

    def __init__(self, profile: DeviceProfile, model: NetworkModel) -> None:
        self.power_w, self.upper_w = (number(model.params, p) for p in ("power_w", "upper_w"))
        if not 0 < self.power_w <= self.upper_w:
            raise ValueError("power_w must be positive and at most upper_w")
        self._latency = latency_predictor(profile)
        self.n_features = self._latency.n_features
        self.coverage = min(model.coverage, self._latency.coverage)
        self.provenance = (
            f"predicted latency times {self.power_w:g} W, at most {self.upper_w:g} W, on "
            f"{profile.device.name}: {model.provenance}, {model.source}"
        )

    def op_features(self, ops: Sequence[Op]) -> Array:
        return self._latency.op_features(ops)

    def predict(self, features: Array) -> tuple[Array, Array]:
        mean_ms, upper_ms = self._latency.predict(features)
        return self.power_w * mean_ms, self.upper_w * upper_ms


@ENERGY_FORMS.register("power_times_time")
class PowerTimesTime(EnergyPredictor):
    """Idle power all along, and what each op adds to it by the shares of a GPU that it uses.

    Shares are those of `predictors.power`: of products and attention the multiprocessors, the
    tensor peak and the bandwidth; convolutions are the products that kernels make of them; of all
    else the bandwidth alone.

    Parameters: `idle_w`; `busy_w`, `tensor_w` and `memory_w` at full use of each share; `limit_w`,
    which power does not pass; `cores`, `bandwidth_bytes_per_s`, `peak_flops` in the native type and
    `peak_flops_int8` (2 per MAC) that shares are of; `upper_ratio`, the upper bound of power over
    its prediction.
    """

    def __init__(self, profile: DeviceProfile, model: NetworkModel) -> None:
        def positive(name: str) -> float:
            value = number(model.params, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive")
            return value

        def watts(name: str) -> float:
            value = number(model.params, name)
            if value < 0:
                raise ValueError(f"{name} must not be negative")
            return value

        self.idle_w = watts("idle_w")
        self._power = PowerModel(positive("limit_w"))
        self._power.coef_ = np.array(
            [self.idle_w, watts("busy_w"), watts("tensor_w"), watts("memory_w")]
        )
        self.cores = positive("cores")
        self.bandwidth = positive("bandwidth_bytes_per_s")
        self.peak, self.peak_int8 = positive("peak_flops"), positive("peak_flops_int8")
        self.upper_ratio = number(model.params, "upper_ratio")
        if self.upper_ratio < 1 or self._power.limit_w < self.idle_w:
            raise ValueError("upper_ratio must be at least 1, and limit_w at least idle_w")
        self.native = profile.runtime.native
        self._latency = latency_predictor(profile)
        self.n_features = self._latency.n_features + 2
        self.coverage = min(model.coverage, self._latency.coverage)
        self.provenance = (
            f"power by the use of {profile.device.name} (idle {self.idle_w:g} W, at most "
            f"{self._power.limit_w:g} W) times predicted op times: {model.provenance}, "
            f"{model.source}"
        )

    def op_features(self, ops: Sequence[Op]) -> Array:
        """Those of the latency, then mJ above idle power and at the upper bound of time."""
        above = [self._above_idle_mj(ops, ms) for ms in self._latency.op_ms(ops)]
        return np.column_stack([self._latency.op_features(ops), *above])

    def predict(self, features: Array) -> tuple[Array, Array]:
        mean_ms, upper_ms = self._latency.predict(features[:, :-2])
        mean = self.idle_w * mean_ms + features[:, -2]
        return mean, self.upper_ratio * (self.idle_w * upper_ms + features[:, -1])

    def _above_idle_mj(self, ops: Sequence[Op], ms: Array) -> Array:
        ms = np.maximum(ms, LEAST_MS)
        return np.asarray(ms * (self._power.steady(self._loads(ops, 1e-3 * ms)) - self.idle_w))

    def _loads(self, ops: Sequence[Op], seconds: Array) -> Array:
        """Shares of (multiprocessors busy, tensor peak, bandwidth), (n_ops, 3)."""
        # only linear ops are ever quantized
        ops = [op if op.kind == "linear" else op.at(self.native) for op in ops]
        native = PRECISIONS[self.native].weight_bits
        held = [PRECISIONS[op.precision] for op in ops]
        inputs = np.array([p.activation_bits or native for p in held]) / 8
        reads, writes = (np.array([getattr(op, n) for op in ops]) for n in ("reads", "writes"))
        moved = inputs * reads + native / 8 * writes
        loads = np.zeros((len(ops), 3))
        loads[:, 2] = moved / seconds / self.bandwidth
        attention = np.array([op.kind == "attention" for op in ops])
        if attention.any():
            called = [op for op in ops if op.kind == "attention"]
            loads[attention] = attention_load(
                np.array([op.shape for op in called], np.float64),
                seconds[attention],
                np.array([2.0 * op.macs for op in called]),
                moved[attention],
                self.peak,
                self.bandwidth,
                self.cores,
            )
        products = np.array([_outputs(op) > 0 for op in ops])
        if products.any():
            called = [op for op in ops if _outputs(op)]
            n = np.array([_outputs(op) for op in called], np.float64)
            weights = np.array([op.weights for op in called])
            loads[products] = product_load(
                np.column_stack([writes[products] / n, weights / n, n]),
                seconds[products],
                inputs[products],
                np.where(inputs[products] == 1, self.peak_int8, self.peak),
                self.bandwidth,
                self.cores,
                moved[products] + np.array([op.weight_bytes for op in called]),
            )
        return loads


def _outputs(op: Op) -> int:
    """Columns of the product that an op is; 0 where it is none."""
    name = {"linear": "n", "conv1d": "out_channels", "conv2d": "out_channels"}.get(op.kind)
    return op.shape[KINDS[op.kind].fields.index(name)] if name else 0
