"""The drift of a machine as one fixed workload, the anchor, shows it.

Public sets of timings have whole runs of rows that are 10 to 45 % slow with a small spread inside
each row: only something that is timed again and again in between tells them from slow networks.
"""

from __future__ import annotations

import bisect
import statistics
from collections.abc import Sequence

#: Share of the anchor's readings that are faster than what counts as the undisturbed machine.
UNDISTURBED = 0.05
#: Relative time above which a reading is slow, and how many in a row make a run.
SLOW, RUN = 1.1, 3
#: Anchor readings before and after a moment whose median is the speed of the machine then.
NEAR = 1


def undisturbed(seconds: Sequence[float]) -> float:
    """What the anchor takes while nothing disturbs.

    >>> undisturbed([1.0, 1.3, 1.01])
    1.0
    """
    return sorted(seconds)[int(UNDISTURBED * (len(seconds) - 1))]


def slow_runs(relative: Sequence[float]) -> list[bool]:
    """Which readings are members of a run of slow ones; one slow reading alone is no run.

    >>> slow_runs([1.0, 1.2, 1.0, 1.2, 1.3, 1.2])
    [False, False, False, True, True, True]
    """
    found = [False] * len(relative)
    first = 0
    for i in range(len(relative) + 1):
        if i < len(relative) and relative[i] > SLOW:
            continue
        if i - first >= RUN:
            found[first:i] = [True] * (i - first)
        first = i + 1
    return found


class Drift:
    """How slow the machine was at a moment, relative to undisturbed.

    Args:
        readings: [time, seconds] of the anchor, in order.
        undisturbed_s: what it takes while nothing disturbs.
    """

    def __init__(self, readings: Sequence[Sequence[float]], undisturbed_s: float) -> None:
        self.times = [when for when, _ in readings]
        self.relative = [seconds / undisturbed_s for _, seconds in readings]
        self.runs = slow_runs(self.relative)

    def at(self, when: float) -> float:
        """The median over a few readings around the moment."""
        return statistics.median(self.relative[self._near(when)])

    def slow(self, when: float) -> bool:
        """Whether the moment lies in a run of slow readings."""
        return any(self.runs[self._near(when)])

    def _near(self, when: float) -> slice:
        i = bisect.bisect(self.times, when)
        return slice(max(0, i - NEAR), i + NEAR)
