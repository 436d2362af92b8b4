"""Non-dominated sets and hypervolumes, feasible first."""

from __future__ import annotations

from collections.abc import Sequence

import moocore
import numpy as np
from numpy.typing import NDArray

from hw_profiles.errors import UsageError

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

CELLS = 1_000_000
"""Candidates times boxes that are held at once."""


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

    Shapes: front (m, k), candidates (n, k), worst (k,) -> (n,). Array work over the boxes that
    the front leaves free: m + 1 of them for two objectives, 2 m + 1 for three.
    """
    low, high = free_boxes(front, worst)
    found = np.zeros(len(candidates))
    step = max(CELLS // len(low), 1)
    for start in range(0, len(candidates), step):
        part = candidates[start : start + step]
        volume = np.ones((len(part), len(low)))
        for j in range(len(worst)):
            side = high[None, :, j] - np.maximum(low[None, :, j], part[:, j, None])
            volume *= np.maximum(side, 0.0)
        found[start : start + step] = volume.sum(axis=1)
    return found


def free_boxes(front: Floats, worst: Floats) -> tuple[Floats, Floats]:
    """Disjoint boxes that cover what is better than `worst` and not dominated by the front.

    Lacour, Klamroth and Fonseca 2017 (Computers and Operations Research 79), by local upper
    bounds: points are added one after another, each splits the bounds that it is below.

    Shapes: front (m, k), worst (k,) -> lower corners (b, k), some of them -inf, and upper corners
    (b, k).
    """
    k = len(worst)
    inside = front[(front < worst).all(axis=1)]
    if len(inside):
        inside = np.unique(inside[moocore.is_nondominated(inside)], axis=0)
    if k == 2:  # a staircase
        left = np.concatenate([[-np.inf], inside[:, 0]])
        right = np.concatenate([inside[:, 0], [worst[0]]])
        level = np.concatenate([[worst[1]], inside[:, 1]])
        return np.column_stack([left, np.full(len(left), -np.inf)]), np.column_stack([right, level])
    bounds = worst[None, :].copy()  # (b, k)
    # The k points that define each bound: point j has the bound's coordinate j.
    defining = np.full((1, k, k), -np.inf)
    defining[0, np.arange(k), np.arange(k)] = worst
    for point in inside[np.argsort(inside[:, -1], kind="stable")]:
        above = np.asarray((point < bounds).all(axis=1))
        old, old_defining = bounds[above], defining[above]
        new_bounds, new_defining = [bounds[~above]], [defining[~above]]
        for j in range(k):
            others = np.delete(old_defining[:, :, j], j, axis=1).max(axis=1, initial=-np.inf)
            kept = point[j] >= others
            split, by = old[kept].copy(), old_defining[kept].copy()
            split[:, j], by[:, j] = point[j], point
            new_bounds.append(split)
            new_defining.append(by)
        bounds, defining = np.concatenate(new_bounds), np.concatenate(new_defining)
    low = np.full_like(bounds, -np.inf)
    for j in range(1, k):
        low[:, j] = defining[:, :j, j].max(axis=1)
    filled = (bounds > low).all(axis=1)
    return low[filled], bounds[filled]
