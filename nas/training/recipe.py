"""How a supernet is trained: every hyper-parameter, and nothing else."""

from __future__ import annotations

import math
from dataclasses import dataclass

LONGEST_WARMUP = 0.3  # of a training with a time limit


@dataclass(frozen=True)
class Recipe:
    """Sandwich training (BigNAS, arXiv:2003.11142) with in-place distillation.

    Each step runs the largest subnet on the labels, then the smallest and some random ones on
    the largest's soft labels. Their losses are AVERAGED, so the gradient's scale, and with it the
    clipping, does not depend on how many run. Decoupled weight decay is safe: every weight is in
    the largest, which runs in each step, so that none is shrunk without being trained.

    Attributes:
        version: of the recipe and of the loop; raise it with any change to what they do.
        epochs: of `images_per_epoch`; a time limit may end training before.
        images_per_epoch: drawn anew without replacement from the training part, at most all.
        batch_size: images a step.
        random_subnets: a step, beside the largest and the smallest.
        learning_rate: of AdamW, at its peak.
        warmup: share of the steps of all epochs in which the rate rises from zero; a cosine to
            zero follows.
        weight_decay: of weight matrices and filters; none on biases, norms and tokens.
        betas: of AdamW.
        label_smoothing: of the largest's labels.
        clip_norm: of the gradient.
    """

    version: int = 1
    epochs: int = 24
    images_per_epoch: int = 16_384
    batch_size: int = 64
    random_subnets: int = 2
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.98)
    label_smoothing: float = 0.0
    clip_norm: float = 1.0

    def rate(self, share: float, by_steps: float) -> float:
        """Learning rate at a moment of the training.

        A time limit hastens the fall but not the rise: warmed up in fewer steps, a transformer
        learns more slowly for long after. The rise takes `LONGEST_WARMUP` of the training at most.

        Args:
            share: of the training that is done, by steps or by time, whichever is further.
            by_steps: share of the steps of all epochs that is done.

        >>> r = Recipe(learning_rate=1.0, warmup=0.5)
        >>> [round(r.rate(share, share), 3) for share in (0.0, 0.125, 0.5, 0.75, 1.0)]
        [0.0, 0.25, 1.0, 0.5, 0.0]
        """
        longest = max(LONGEST_WARMUP, self.warmup)
        risen = min(max(by_steps / self.warmup, share / longest), 1.0)
        falling = min(max((share - self.warmup) / (1 - self.warmup), 0.0), 1.0)
        return self.learning_rate * risen * (1 + math.cos(math.pi * falling)) / 2
