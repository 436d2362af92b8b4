"""The examples that a candidate is evaluated on first, and what they say of all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.data.dataset import Part
from nas.data.metric import Metric
from nas.errors import UsageError

LEAST_BATCHES = 64
"""Deployment batches of a first look: of fewer, an error is not known well enough to stop by."""
MARGIN = 2.0
"""Standard errors that an estimate may be wrong by before a candidate is given up."""


@dataclass(frozen=True)
class Estimate:
    """The quality on a whole part, as its first look shows it.

    Attributes:
        quality: mean over the examples looked at.
        noise: its standard error as an estimate of the mean over the whole part.
    """

    quality: float
    noise: float

    def may_reach(self, goal: float, metric: Metric) -> bool:
        """Whether the whole part may give a quality of `goal` or better."""
        short = goal - self.quality if metric.larger_is_better else self.quality - goal
        return short <= MARGIN * self.noise


@dataclass(frozen=True, eq=False)
class FirstLook:
    """A fixed stratified sample of a part, and what is left of it.

    The unit is a whole deployment batch, whose examples share what is quantized dynamically: the
    two together are the whole part's batches, so that their scores are the whole part's.

    Attributes:
        first: indices in the order of their strata, (n,) int64.
        rest: all other indices, ascending, int64.
        batch_size: examples of a deployment batch.
    """

    first: Tensor
    rest: Tensor
    batch_size: int = 1

    @classmethod
    def of(cls, part: Part, share: float, batch_size: int = 1) -> FirstLook:
        """One random batch of each stratum; the same for the same part, share and batch size.

        The strata are runs of equal length in the order of labels, in which the draws of one
        original lie together.

        Args:
            part: of a data set.
            share: of its examples, in (0, 1).
            batch_size: examples of a deployment batch.

        Raises:
            UsageError: if a first look is too small to judge by, or leaves nothing.
        """
        batches = len(part) // batch_size
        n = round(share * batches)
        if not LEAST_BATCHES <= n < batches:
            what = "examples" if batch_size == 1 else f"batches of {batch_size}"
            enough = math.ceil(100 * LEAST_BATCHES / max(batches, 1)) / 100
            raise UsageError(
                f"--first-look {share:g} is {n:,} of {batches:,} validation {what}.",
                f"Give {enough:g} or more, and less than 1: at least {LEAST_BATCHES}."
                if enough < 1
                else "Leave it out: these data are too few to be looked at twice.",
            )
        order = torch.arange(batches)  # of text, which has no labels
        if len(part.labels):
            order = torch.argsort(part.labels[order * batch_size], stable=True)
        edges = np.arange(n + 1) * batches // n
        chosen = np.random.default_rng(0).integers(edges[:-1], edges[1:])
        picked = order[torch.from_numpy(chosen)]
        first = (picked[:, None] * batch_size + torch.arange(batch_size)).flatten()
        left = torch.ones(len(part), dtype=torch.bool)
        left[first] = False
        return cls(first, left.nonzero().flatten(), batch_size)

    def estimate(self, scores: Tensor, traits: Tensor | None = None) -> Estimate:
        """What the scores of the first examples say of the whole part.

        A regression estimate (Cochran 1977, chapter 7): traits that are known of every example say
        how far the first ones are harder than all. The variance is that of successive differences
        of what they do not explain, which leaves out what the strata differ by (Wolter 2007,
        chapter 8), with the correction for a finite part.

        Args:
            scores: of the first examples, (n,).
            traits: of all examples of the part, in its order, (examples, t), t far below n; none
                unless given.
        """
        every = np.ones((len(self.first) + len(self.rest), 1))
        if traits is not None:
            every = np.concatenate([every, traits.numpy()], axis=1)
        known, found = self._by_batch(every[self.first.numpy()]), self._by_batch(scores.numpy())
        slopes = np.linalg.lstsq(known, found, rcond=None)[0]
        free = len(found) - np.linalg.matrix_rank(known)
        variance = np.mean(np.diff(found - known @ slopes) ** 2) / 2 * (len(found) - 1) / free
        left = len(self.rest) / len(every)
        # Of the part as a whole no score can be beyond those of its examples.
        quality = np.clip(every.mean(axis=0) @ slopes, found.min(), found.max())
        return Estimate(float(quality), math.sqrt(variance / len(found) * left))

    def _by_batch(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Means over each deployment batch of values of the first examples, (n, ...)."""
        batched = values.reshape(-1, self.batch_size, *values.shape[1:])
        means: NDArray[np.float64] = batched.mean(axis=1)
        return means
