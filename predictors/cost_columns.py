"""What ops add to a network's costs, column by column, and the costs of the sums."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hw_profiles.op import PRECISIONS, Op
from predictors.energy import EnergyPredictor
from predictors.latency import LatencyPredictor
from search_spaces.space import LayerOp

Array = NDArray[np.float64]

#: Costs of a network. Those named `_upper` are one-sided bounds at their predictor's coverage.
COLUMNS = ("latency_ms", "latency_ms_upper", "memory_bytes", "params", "weight_bytes", "macs")
#: Further ones where the target has energy figures.
ENERGY_COLUMNS = ("energy_mj", "energy_mj_upper")


class CostColumns:
    """The additive columns of an op: the predictors' features, then three counts.

    Args:
        latency: the target's latency predictor.
        energy: its energy predictor, or None.
        native: precision of everything that no scheme quantizes.
        plans_buffers: whether the runtime lets element-wise ops write over their input.
        weights_in_flash: whether weights are read in place and take no memory.
    """

    def __init__(
        self,
        latency: LatencyPredictor,
        energy: EnergyPredictor | None,
        native: str,
        plans_buffers: bool = False,
        weights_in_flash: bool = False,
    ) -> None:
        self.plans_buffers = plans_buffers
        self.weights_in_flash = weights_in_flash
        self.latency = latency
        self.energy = energy
        self.names = COLUMNS + (ENERGY_COLUMNS if energy is not None else ())
        self.native_bytes = PRECISIONS[native].weight_bits // 8
        self.n = latency.n_features + (energy.n_features if energy is not None else 0) + 3

    def features(self, ops: Sequence[Op]) -> Array:
        """The predictors' features of each op, (n_ops, n - 3).

        Raises:
            ProfileError: if the profile says nothing about one of them.
        """
        features = [self.latency.op_features(ops)]
        if self.energy is not None:
            features.append(self.energy.op_features(ops))
        return np.concatenate(features, axis=1)

    def counts(self, layer_op: LayerOp, call: Op) -> Array:
        """Parameters, bytes as stored and MACs of an op in the precision of its call, (3,)."""
        stored = call.weight_bytes + layer_op.extra * self.native_bytes
        return np.array([layer_op.params, stored, layer_op.op.macs], dtype=np.float64)

    def live(self, layer_op: LayerOp) -> int:
        """Activation elements alive while an op runs."""
        saved = layer_op.op.writes if self.plans_buffers and layer_op.op.in_place else 0
        return layer_op.live - saved

    def costs(self, total: Array, peak: Array) -> dict[str, Array]:
        """Every cost of networks, (networks,) each.

        memory_bytes is the largest activations alive at once, in native precision, and the weights
        unless they stay in flash.

        Args:
            total: summed columns, (networks, n).
            peak: activation elements alive at once, (networks,).
        """
        split = self.latency.n_features
        latency, upper = self.latency.predict(total[:, :split])
        params, weight_bytes, macs = total[:, -3:].T
        memory = peak * self.native_bytes + (0.0 if self.weights_in_flash else weight_bytes)
        found = [latency, upper, memory, params, weight_bytes, macs]
        if self.energy is not None:
            found += self.energy.predict(total[:, split:-3])
        return dict(zip(self.names, found, strict=True))
