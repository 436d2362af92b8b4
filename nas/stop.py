"""When a search ends before its last trial: its time is over, or its front no longer grows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nas.errors import UsageError

FLAT_PERCENT = 0.1


@dataclass(frozen=True)
class Flat:
    """The rule that the last `trials` trials together raised the hypervolume by too little.

    Attributes:
        trials: that are looked back.
        percent: of the hypervolume before them; what is not more is no improvement.
    """

    trials: int
    percent: float = FLAT_PERCENT

    def reached(self, hypervolumes: Sequence[float]) -> bool:
        """Whether a front is flat, by its hypervolume after each trial; there must be one.

        >>> Flat(2).reached([0.5, 0.6, 0.6, 0.6]), Flat(2).reached([0.5, 0.6, 0.6])
        (True, False)
        """
        if len(hypervolumes) <= self.trials:
            return False
        before, now = hypervolumes[-1 - self.trials], hypervolumes[-1]
        return before > 0 and now <= before * (1 + self.percent / 100)

    def __str__(self) -> str:
        return (
            f"the last {self.trials} trials raised the hypervolume by no more than "
            f"{self.percent:g}%"
        )


def parse_flat(text: str) -> Flat:
    """The rule from what a user typed: a number of trials, and perhaps a share.

    Raises:
        UsageError: if it does not parse.

    >>> parse_flat("30"), parse_flat("50:0.5%")
    (Flat(trials=30, percent=0.1), Flat(trials=50, percent=0.5))
    """
    match = re.fullmatch(r"(\d{1,7})(?::(\d+(?:\.\d*)?)%)?", text.strip())
    if match is None or int(match[1]) < 1:
        raise UsageError(
            f"cannot read --stop-when-flat {text!r}.",
            "Write a number of trials such as 30, or 30:0.5% to call 0.5% no improvement "
            f"(default {FLAT_PERCENT:g}%).",
        )
    return Flat(int(match[1]), FLAT_PERCENT if match[2] is None else float(match[2]))
