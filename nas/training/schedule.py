"""The learning rate over a training: in each stage a rise, then a cosine to zero."""

from __future__ import annotations

import math
from bisect import bisect_right
from itertools import accumulate

from nas.training.recipe import Recipe, Stage
from search_spaces.space import SearchSpace

LONGEST_WARMUP = 0.3  # of a stage of a training with a time limit


class Schedule:
    """Which stage runs and how fast it learns at a moment of the training.

    Args:
        recipe: whose stages and rates they are.
        space: to be trained, where stages depend on it.
    """

    def __init__(self, recipe: Recipe, space: SearchSpace | None = None) -> None:
        self.recipe = recipe
        self.stages: tuple[Stage, ...] = recipe.stages(space)
        total = sum(stage.share for stage in self.stages)
        self.starts = [0.0, *(end / total for end in accumulate(s.share for s in self.stages))]

    def index(self, share: float) -> int:
        """The stage that runs when this share of the training is done."""
        return min(bisect_right(self.starts, share) - 1, len(self.stages) - 1)

    def rate(self, share: float, by_steps: float) -> float:
        """Learning rate at a moment of the training.

        A time limit hastens the fall but not the rise: warmed up in fewer steps, a transformer
        learns more slowly for long after. The rise takes `LONGEST_WARMUP` of a stage at most.

        Args:
            share: of the training that is done, by steps or by time, whichever is further.
            by_steps: share of the steps of all epochs that is done.

        >>> from nas.training.recipe import get_recipe
        >>> s = Schedule(get_recipe("sandwich", learning_rate=1.0, warmup=0.5))
        >>> [round(s.rate(share, share), 3) for share in (0.0, 0.125, 0.5, 0.75, 1.0)]
        [0.0, 0.25, 1.0, 0.5, 0.0]
        """
        at = self.index(share)
        stage, start, length = (
            self.stages[at],
            self.starts[at],
            self.starts[at + 1] - self.starts[at],
        )
        share = min((share - start) / length, 1.0)
        by_steps = min(max((by_steps - start) / length, 0.0), 1.0)
        warmup = self.recipe.warmup if stage.warmup is None else stage.warmup
        peak = self.recipe.learning_rate * stage.peak
        risen = 1.0
        if warmup > 0:
            risen = min(max(by_steps / warmup, share / max(LONGEST_WARMUP, warmup)), 1.0)
        falling = min(max((share - warmup) / (1 - warmup), 0.0), 1.0)
        return peak * risen * (1 + math.cos(math.pi * falling)) / 2
