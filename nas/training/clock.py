"""How much of a training is done, by its steps or by its time limit, whichever is further."""

from __future__ import annotations

import math
import time


class Clock:
    """The time of one call, which may continue an earlier one.

    Args:
        limit_s: of this call; None if only the epochs end it.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.began = time.monotonic()
        self.limit_s = limit_s
        self.start_share = 0.0
        self.seconds_before = 0.0

    def spent(self) -> float:
        """Seconds of this call."""
        return time.monotonic() - self.began

    def by_time(self) -> float:
        """Share of the training that is done by the limit; 0 without one."""
        if self.limit_s is None:
            return 0.0
        # The last evaluation needs its time too.
        for_steps = self.limit_s - 2 * self.evaluation_s()
        return self.start_share + (1 - self.start_share) * self.spent() / for_steps

    def seconds_left(self, share: float) -> float:
        """By the share that is done of this call."""
        done = share - self.start_share
        return self.spent() * (1 - share) / done if done > 0 else math.inf

    def evaluation_s(self) -> float:
        """Limit of one evaluation: a few hundredths of the training."""
        return math.inf if self.limit_s is None else min(0.02 * self.limit_s, 2.0)
