"""Ops as they were measured one by one, and what such figures say of ops that were not.

What is measured is a latency, or an energy (`predictors.energy_network`); both add up over the ops
of a network (`predictors.network`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from hw_profiles.errors import ProfileError
from hw_profiles.op import Op
from hw_profiles.profile import NetworkTiming, OpTiming
from predictors.op_time import Array

#: Neighbours in shape whose error corrects the analytic time of an op that was not timed.
NEIGHBOURS = 4
#: Parts of a class of ops, each of which is left out in turn.
FOLDS = 5


@dataclass(frozen=True)
class Quantity:
    """What is measured of ops and of networks, and adds up.

    Attributes:
        unit: its values' own, as parameters are named after.
        value: of a measured op or network.
        spread: relative, of its readings.
        unstable: whether they were read while the machine was slow.
        measured: the word for it.
    """

    unit: str
    value: Callable[[OpTiming | NetworkTiming], float]
    spread: Callable[[OpTiming | NetworkTiming], float]
    unstable: Callable[[OpTiming | NetworkTiming], bool]
    measured: str


LATENCY = Quantity(
    "ms",
    lambda timed: timed.timing.median_ms,
    lambda timed: timed.timing.spread_between,
    lambda timed: timed.timing.unstable,
    "timed",
)


class MeasuredOps:
    """Values of ops: as measured, and between the measured shapes by a fitted line.

    Each class has t = c0 + c1 MACs + c2 elements moved + c3 weights with non-negative numbers,
    corrected by the errors of the nearest measured shapes.
    """

    def __init__(self, timings: Sequence[OpTiming], quantity: Quantity = LATENCY) -> None:
        self._table = {t.op: quantity.value(t) for t in timings}
        self._classes: dict[tuple[str, str], tuple[Array, Array, Array]] = {}
        for key in {(t.kind, t.precision) for t in timings}:
            ops = [o for o in self._table if (o.kind, o.precision) == key]
            times = np.array([self._table[o] for o in ops])
            counts = _counts(ops)
            rows = counts / times[:, None]
            scale = rows.max(axis=0) + 1e-300  # counts differ by orders of magnitude
            weights = nnls(rows / scale, np.ones(len(ops)), maxiter=1000)[0] / scale
            errors = np.log(times / np.maximum(counts @ weights, 1e-9))
            self._classes[key] = (weights, _log_shapes(ops), errors)

    @property
    def classes(self) -> list[tuple[str, str]]:
        """(kind, precision) that were timed, in a fixed order."""
        return sorted(self._classes)

    @property
    def quantizable(self) -> NDArray[np.bool_]:
        """Which classes are of a kind that was timed in several precisions, (classes,)."""
        kinds = [kind for kind, _ in self.classes]
        return np.array([kinds.count(kind) > 1 for kind in kinds], dtype=bool)

    def predict(self, ops: Sequence[Op]) -> Array:
        """The value of each op, (n_ops,), in the unit of what was measured.

        Raises:
            ProfileError: if nothing of its kind and precision was timed.
        """
        times = np.array([self._table.get(op, np.nan) for op in ops])
        missing = np.flatnonzero(np.isnan(times)).tolist()
        for key in {(ops[i].kind, ops[i].precision) for i in missing}:
            if key not in self._classes:
                raise ProfileError(
                    f"the profile has no time for {key[0]} in {key[1]}.",
                    "Measure the device anew with `nas profile`.",
                )
            mine = [i for i in missing if (ops[i].kind, ops[i].precision) == key]
            wanted = [ops[i] for i in mine]
            weights, shapes, errors = self._classes[key]
            apart = np.abs(_log_shapes(wanted)[:, None] - shapes[None]).sum(axis=2)
            near = np.argsort(apart, axis=1)[:, :NEIGHBOURS]
            closeness = 1 / (0.05 + np.take_along_axis(apart, near, axis=1)) ** 2
            correction = (closeness * errors[near]).sum(1) / closeness.sum(1)
            line = np.maximum(_counts(wanted) @ weights, 1e-9)
            times[mine] = line * np.exp(correction)
        return times


def errors_of_ops(timings: Sequence[OpTiming], folds: int = FOLDS) -> dict[tuple[str, str], Array]:
    """Errors of ops that were left out, predicted from the others of their class.

    Returns:
        (kind, precision) -> absolute relative errors, one an op; a class of under `folds` ops is
        left out.
    """
    found: dict[tuple[str, str], list[float]] = {}
    classes: dict[tuple[str, str], list[OpTiming]] = {}
    for t in timings:
        classes.setdefault((t.kind, t.precision), []).append(t)
    for key, mine in sorted(classes.items()):
        for fold in range(folds if len(mine) >= folds else 0):
            known = MeasuredOps([t for i, t in enumerate(mine) if i % folds != fold])
            asked = mine[fold::folds]
            predicted = known.predict([t.op for t in asked])
            true = np.array([t.timing.median_ms for t in asked])
            found.setdefault(key, []).extend(np.abs(predicted / true - 1).tolist())
    return {key: np.array(errors) for key, errors in found.items()}


def _counts(ops: Sequence[Op]) -> Array:
    return np.array([[1.0, o.macs, o.reads + o.writes, o.weights] for o in ops])


def _log_shapes(ops: Sequence[Op]) -> Array:
    # a padding may be 0
    return np.log(np.maximum([[float(s) for s in o.shape] for o in ops], 0.5))


class Features:
    """Additive features of ops: for each class the summed values and the number of calls.

    Args:
        timings: of the ops that were measured.
        quantity: that was measured of them.
    """

    def __init__(self, timings: Sequence[OpTiming], quantity: Quantity) -> None:
        self.quantity, self.n_ops = quantity, len(timings)
        self.ops = MeasuredOps(timings, quantity)
        self._index = {key: i for i, key in enumerate(self.ops.classes)}
        self.n_classes = len(self._index)

    def __call__(self, ops: Sequence[Op]) -> Array:
        values = self.ops.predict(ops)
        features = np.zeros((len(ops), 2 * self.n_classes))
        rows = np.arange(len(ops))
        column = np.array([self._index[o.kind, o.precision] for o in ops])
        features[rows, column] = values
        features[rows, self.n_classes + column] = 1.0
        return features
