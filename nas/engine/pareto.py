"""Non-dominated sets and hypervolumes, feasible first."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from hw_profiles.errors import UsageError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def minimised(values: Floats, maximise: Sequence[bool]) -> Floats:
    """Values (n, k) with the sign turned where larger is better.

    Raises:
        UsageError: if there is not one direction a column, or a value is not a number.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != len(maximise) or np.isnan(array).any():
        raise UsageError(
            f"{len(maximise)} directions need (n, {len(maximise)}) values without NaN, "
            f"not {array.shape}.",
            "Leave failed trials out.",
        )
    return array * np.where(np.asarray(maximise, dtype=bool), -1.0, 1.0)


def non_dominated(
    values: Floats, maximise: Sequence[bool], violation: Floats | None = None
) -> Mask:
    """Which rows no other row beats; equal rows stand or fall together.

    Args:
        values: (n, k), finite.
        maximise: a direction a column.
        violation: (n,), at most 0 where feasible. Any feasible row beats any infeasible one; if
            none is feasible, the least violating rows are compared.

    >>> import numpy as np
    >>> accuracy_latency = np.array([[0.9, 2.0], [0.8, 1.0], [0.7, 3.0]])
    >>> non_dominated(accuracy_latency, [True, False]).tolist()
    [True, True, False]
    """
    points = minimised(values, maximise)
    mask = np.zeros(len(points), dtype=bool)
    if not len(points):
        return mask
    excess = np.zeros(len(points)) if violation is None else np.maximum(violation, 0.0)
    best = np.flatnonzero(excess == excess.min())
    mask[best] = moocore.is_nondominated(points[best], keep_weakly=True)
    return mask


def hypervolume(values: Floats, maximise: Sequence[bool], reference: Sequence[float]) -> float:
    """Volume that rows (n, k) dominate, up to the reference (k,), in the objectives' own units.

    >>> import numpy as np
    >>> volume = hypervolume(np.array([[0.9, 2.0], [0.8, 1.0]]), [True, False], [0.5, 4.0])
    >>> round(volume, 6)
    1.1
    """
    points = minimised(values, maximise)
    worst = minimised(np.asarray(reference, dtype=np.float64)[None, :], maximise)[0]
    return _volume(points, worst)


def _volume(points: Floats, worst: Floats) -> float:
    inside = points[(points < worst).all(axis=1)]
    if not len(inside):
        return 0.0
    if len(worst) == 1:
        return float(worst[0] - inside.min())
    return float(moocore.hypervolume(inside, ref=worst))


def gains(front: Floats, candidates: Floats, worst: Floats) -> Floats:
    """Hypervolume that each candidate alone would add, all objectives minimised.

    Shapes: front (m, k), candidates (n, k), worst (k,) -> (n,). For two objectives this is array
    work; for more, one hypervolume a candidate that the front does not dominate.
    """
    inside = front[(front < worst).all(axis=1)]
    if len(worst) == 2:
        order = np.lexsort((inside[:, 1], inside[:, 0]))
        steps = inside[order]
        left = np.concatenate([[-np.inf], steps[:, 0]])
        right = np.concatenate([steps[:, 0], [worst[0]]])
        level = np.concatenate([[worst[1]], np.minimum.accumulate(steps[:, 1])])
        width = np.maximum(right[None, :] - np.maximum(left[None, :], candidates[:, :1]), 0.0)
        total: Floats = (width * np.maximum(level[None, :] - candidates[:, 1:], 0.0)).sum(axis=1)
        return total
    found = np.zeros(len(candidates))
    base = _volume(inside, worst)
    for i in np.flatnonzero((candidates < worst).all(axis=1)):
        if not len(inside) or not (inside <= candidates[i]).all(axis=1).any():
            found[i] = _volume(np.vstack([inside, candidates[i]]), worst) - base
    return found
