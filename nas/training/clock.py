"""How much of a training is done, by its steps or by its time limit, whichever is further."""

from __future__ import annotations

import math
import time


class Clock:
    """The time of one call, which may continue an earlier one.

    Args:
        limit_s: of this call; None if only the epochs end it.

    Attributes:
        start_share: of the training that was done before this call.
        start_steps: share of its steps; less where a time limit had hastened it.
        seconds_before: that it took.
        subnets: trained in the steps of this call; on joined batches they count for each.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.began = time.monotonic()
        self.limit_s = limit_s
        self.start_share = 0.0
        self.start_steps = 0.0
        self.seconds_before = 0.0
        self.subnets = 0

    def spent(self) -> float:
        """Seconds of this call."""
        return time.monotonic() - self.began

    def by_steps(self, steps: float) -> float:
        """Share of the training that is done by a share of its steps.

        Continued, what is left of the training goes with what is left of the steps.

        >>> clock = Clock(None)
        >>> clock.start_share, clock.start_steps = 0.6, 0.2
        >>> clock.by_steps(0.2), round(clock.by_steps(0.6), 3), clock.by_steps(1.0)
        (0.6, 0.8, 1.0)
        """
        ahead = self.start_share - self.start_steps
        return steps + ahead * (1 - steps) / (1 - self.start_steps)

    def by_time(self) -> float:
        """Share of the training that is done by the limit; 0 without one."""
        if self.limit_s is None:
            return 0.0
        # The last evaluation needs its time too.
        for_steps = self.limit_s - 2 * self.evaluation_s()
        return self.start_share + (1 - self.start_share) * self.spent() / for_steps

    def affordable(self, by_time: float, steps_left: int) -> float:
        """Subnets a step that the limit leaves time for, by the time of those trained so far.

        Args:
            by_time: share of the training that is done by the limit, the same on every process.
            steps_left: until the last epoch's end.
        """
        if self.limit_s is None:
            return math.inf
        done = by_time - self.start_share
        return self.subnets * (1 - by_time) / done / steps_left if done > 0 else 0.0

    def seconds_left(self, share: float) -> float:
        """By the share that is done of this call."""
        done = share - self.start_share
        return self.spent() * (1 - share) / done if done > 0 else math.inf

    def evaluation_s(self) -> float:
        """Limit of one evaluation: a few hundredths of the training."""
        return math.inf if self.limit_s is None else min(0.02 * self.limit_s, 2.0)
