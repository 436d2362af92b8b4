"""How good a network is: share of right labels, their loss, or bits that a byte of text costs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Metric:
    """A quality that is measured on labelled examples.

    Attributes:
        name: `accuracy`, `loss` or `bits_per_byte`; also that of the search's objective.
        title: for tables and pictures.
        larger_is_better: whether more of it is better.
    """

    name: str
    title: str
    larger_is_better: bool

    def scores(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The quality of each example, whose mean is a part's; (n,) float64.

        Args:
            logits: (n, classes), or (n, length, vocabulary) of a language model.
            labels: (n,), or the next tokens (n, length).
        """
        import torch.nn.functional as F

        if self is ACCURACY:
            return (logits.argmax(dim=-1) == labels).double()
        if self is LOSS:
            return F.cross_entropy(logits.float(), labels, reduction="none").double()
        nats = F.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
        return nats.double().mean(dim=1) / math.log(2)

    def traits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What tells best of each example how another network scores on it; (n,) float64.

        Shapes as of `scores`. Beside right or wrong it is how likely the true label is.
        """
        import torch.nn.functional as F

        if self is not ACCURACY:
            return self.scores(logits, labels)
        return F.cross_entropy(logits.float(), labels, reduction="none").neg().exp().double()

    def noise(self, scores: Tensor, draws: int = 1) -> float:
        """Standard error of the mean of scores of which every `draws` share one origin."""
        n = len(scores) // draws
        return float(scores.std(unbiased=False)) / math.sqrt(max(n, 1))

    def format(self, value: float) -> str:
        """A value to read.

        >>> ACCURACY.format(0.91234), BITS_PER_BYTE.format(2.34567)
        ('91.23%', '2.346')
        """
        return f"{value:.2%}" if self is ACCURACY else f"{value:.3f}"

    def format_difference(self, value: float) -> str:
        """A difference of two values, or an error, to read.

        >>> ACCURACY.format_difference(0.01), BITS_PER_BYTE.format_difference(0.0512)
        ('1.0 points', '0.051 bits')
        """
        unit = "points" if self is ACCURACY else "nats" if self is LOSS else "bits"
        shown = 100 * value if self is ACCURACY else value
        digits = 1 - math.floor(math.log10(abs(shown))) if shown else 1  # two that count
        return f"{shown:.{max(digits, 0)}f} {unit}"


ACCURACY = Metric("accuracy", "accuracy", True)
LOSS = Metric("loss", "cross-entropy", False)
BITS_PER_BYTE = Metric("bits_per_byte", "bits per byte", False)
METRICS = {metric.name: metric for metric in (ACCURACY, LOSS, BITS_PER_BYTE)}


def metric_of(objectives: Iterable[str]) -> Metric:
    """The quality among objectives, of which a search has one.

    >>> metric_of(["latency", "accuracy"]).name
    'accuracy'
    """
    return next(METRICS[name] for name in objectives if name in METRICS)
